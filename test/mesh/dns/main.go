// The cluster's DNS server: it answers for Services and for nothing else. Sidecars ask for istiod by name.
package main

import (
	"log"
	"net"
	"strings"
	"time"

	"github.com/miekg/dns"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
)

const domain = ".svc.cluster.local."

type server struct {
	services listers.ServiceLister
}

func main() {
	config, err := rest.InClusterConfig()
	if err != nil {
		log.Fatal(err)
	}
	factory := informers.NewSharedInformerFactory(kubernetes.NewForConfigOrDie(config), 0)
	services := factory.Core().V1().Services()
	handler := server{services.Lister()}
	synced := services.Informer().HasSynced
	factory.Start(nil)
	// The readiness probe asks over TCP, so nothing listens before the services are known.
	for !synced() {
		time.Sleep(10 * time.Millisecond)
	}
	go func() { log.Fatal(dns.ListenAndServe(":53", "udp", handler)) }()
	log.Fatal(dns.ListenAndServe(":53", "tcp", handler))
}

func (s server) ServeDNS(writer dns.ResponseWriter, query *dns.Msg) {
	reply := new(dns.Msg)
	reply.SetReply(query)
	reply.Authoritative = true
	for _, question := range query.Question {
		addresses, known := s.resolve(strings.ToLower(question.Name))
		if !known {
			reply.Rcode = dns.RcodeNameError
		}
		header := dns.RR_Header{Name: question.Name, Rrtype: question.Qtype, Class: dns.ClassINET, Ttl: 5}
		for _, address := range addresses {
			ip := net.ParseIP(address)
			switch {
			case question.Qtype == dns.TypeA && ip.To4() != nil:
				reply.Answer = append(reply.Answer, &dns.A{Hdr: header, A: ip})
			case question.Qtype == dns.TypeAAAA && ip.To4() == nil:
				reply.Answer = append(reply.Answer, &dns.AAAA{Hdr: header, AAAA: ip})
			}
		}
	}
	_ = writer.WriteMsg(reply)
}

// resolve takes "name.namespace.svc.cluster.local." and says whether there is such a Service.
func (s server) resolve(name string) ([]string, bool) {
	labels := strings.Split(strings.TrimSuffix(name, domain), ".")
	if !strings.HasSuffix(name, domain) || len(labels) != 2 {
		return nil, false
	}
	service, err := s.services.Services(labels[1]).Get(labels[0])
	if err != nil {
		return nil, false
	}
	return service.Spec.ClusterIPs, true
}
