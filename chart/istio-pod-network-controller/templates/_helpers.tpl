{{/* Of every object and of the service account: there can be one in a cluster. */}}
{{- define "istio-pod-network-controller.name" -}}
{{- .Chart.Name -}}
{{- end -}}

{{/* As the original's users know it: "helm template ... | kubectl apply -f -" says nothing of a namespace. */}}
{{- define "istio-pod-network-controller.namespace" -}}
{{- if .Values.Namespace -}}
{{- .Values.Namespace -}}
{{- else if eq .Release.Namespace "default" -}}
istio-system
{{- else -}}
{{- .Release.Namespace -}}
{{- end -}}
{{- end -}}

{{- define "istio-pod-network-controller.image" -}}
{{- with .Values.image -}}
{{- if not .repository -}}
{{- fail (printf "\n\nimage.repository is empty. No image of this project is published yet, so build one and name it:\n\n  docker build --tag REGISTRY/%s:%s . && docker push REGISTRY/%s:%s\n  helm ... --set image.repository=REGISTRY/%s\n\ndocs/quick-start.md has the commands for kind, minikube, k3d and OpenShift Local, without a registry.\n" $.Chart.Name $.Chart.AppVersion $.Chart.Name $.Chart.AppVersion $.Chart.Name) -}}
{{- end -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (.tag | default $.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "istio-pod-network-controller.gateImage" -}}
{{- $repository := .Values.gateImage.repository | default (printf "%s-gate" .Values.image.repository) -}}
{{- if .Values.gateImage.digest -}}
{{- printf "%s@%s" $repository .Values.gateImage.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (.Values.gateImage.tag | default .Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "istio-pod-network-controller.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "istio-pod-network-controller.labels" -}}
{{ include "istio-pod-network-controller.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: istio
{{- $own := list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/version" "app.kubernetes.io/managed-by" "app.kubernetes.io/part-of" "helm.sh/chart" }}
{{- range $name, $value := .Values.labels }}
{{- if has $name $own }}
{{- fail (printf "\n\nlabels.%s: the chart sets this label itself: leave it out\n" $name) }}
{{- end }}
{{ $name }}: {{ $value | quote }}
{{- end }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{/* Of the controller's container, as YAML; nothing: the runtime's own. */}}
{{- define "istio-pod-network-controller.seLinuxOptions" -}}
{{- $options := dict -}}
{{- if eq .Values.kubernetesDistribution "OpenShift" -}}
{{- $options = dict "user" "system_u" "role" "system_r" "type" "spc_t" "level" "s0" -}}
{{- end -}}
{{- with merge (deepCopy .Values.seLinuxOptions) $options -}}
{{- toYaml . -}}
{{- end -}}
{{- end -}}

{{/* Names by which somebody may ask for metrics; any address may be asked as well. */}}
{{- define "istio-pod-network-controller.hosts" -}}
{{- $name := include "istio-pod-network-controller.name" . -}}
{{- $inNamespace := printf "%s.%s" $name (include "istio-pod-network-controller.namespace" .) -}}
{{- concat (list $name $inNamespace (printf "%s.svc" $inNamespace)) .Values.metrics.hosts | join "," -}}
{{- end -}}

{{/* Path of the runtime's socket on the node; empty: the controller looks for it. */}}
{{- define "istio-pod-network-controller.criSocket" -}}
{{- $socket := .Values.criSocket -}}
{{- if and (not $socket) (eq .Values.containerRuntime "crio") -}}
{{- $socket = .Values.crioSocket -}}
{{- else if and (not $socket) (eq .Values.containerRuntime "containerd") -}}
{{- $socket = "/run/containerd/containerd.sock" -}}
{{- else if and (not $socket) (eq .Values.containerRuntime "docker") -}}
{{- $socket = "/run/cri-dockerd.sock" -}}
{{- end -}}
{{- /* /var/run is a link to /run, which leads nowhere under /host. */ -}}
{{- regexReplaceAll "^/var/run/" ($socket | trimPrefix "unix://") "/run/" -}}
{{- end -}}

{{/*
What of the node is mounted under /host, as {"paths": [...]}. Folders rather than sockets: a runtime that is restarted makes
its socket anew, and a mounted file would stay the old one.
*/}}
{{- define "istio-pod-network-controller.hostPaths" -}}
{{- $socket := include "istio-pod-network-controller.criSocket" . -}}
{{- $paths := list -}}
{{- if or (has .Values.containerRuntime (list "auto" "docker")) (eq (dir $socket) "/run") -}}
{{- $paths = append $paths "/run" -}}
{{- else -}}
{{- $paths = append $paths "/run/netns" -}}
{{- end -}}
{{- if and $socket (not (and (has "/run" $paths) (hasPrefix "/run/" $socket))) -}}
{{- $paths = append $paths (dir $socket) -}}
{{- end -}}
{{- if and (eq .Values.runtimeEvents "nri") (not (has "/run" $paths)) -}}
{{- $paths = append $paths "/run/nri" -}}
{{- end -}}
{{- if eq .Values.containerRuntime "docker" -}}
{{- $paths = append $paths "/proc" -}}
{{- end -}}
{{- dict "paths" $paths | toJson -}}
{{- end -}}

{{/* logrus, which the original used, knows levels by other names too. */}}
{{- define "istio-pod-network-controller.logLevel" -}}
{{- get (dict "panic" "fatal" "warning" "warn") .Values.LogLevel | default .Values.LogLevel -}}
{{- end -}}

{{/*
A value as text, a list with commas. A number of a values file is a float, whatever is written: 1000650000 would be
1.00065e+09.
*/}}
{{- define "istio-pod-network-controller.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- printf "%.0f" . -}}
{{- else if kindIs "slice" . -}}
{{- $texts := list -}}
{{- range . -}}
{{- $texts = append $texts (include "istio-pod-network-controller.text" .) -}}
{{- end -}}
{{- join "," $texts -}}
{{- else -}}
{{- toString . -}}
{{- end -}}
{{- end -}}

{{/* The configuration file of "ipnc run". */}}
{{- define "istio-pod-network-controller.config" -}}
{{- $config := dict "enroll" .Values.enroll "exclude-namespaces" .Values.excludeNamespaces "marks" .Values.marks "log-level" (include "istio-pod-network-controller.logLevel" .) "runtime-events" .Values.runtimeEvents "unserved-families" .Values.unservedFamilies -}}
{{- $flags := dict
  "includeIPRanges" "istio-service-cidr"
  "excludeIPRanges" "istio-service-exclude-cidr"
  "includeInboundPorts" "istio-inbound-ports"
  "excludeInboundPorts" "istio-local-exclude-ports"
  "includeOutboundPorts" "istio-outbound-ports"
  "excludeOutboundPorts" "istio-local-outbound-ports-exclude" -}}
{{- range $value, $flag := $flags -}}
{{- $text := include "istio-pod-network-controller.text" (get $.Values $value) -}}
{{- if not (has (trim $text) (list "" "*")) -}}
{{- if hasKey $.Values.config $flag -}}
{{- fail (printf "\n\nconfig.%s and %s set the same option: remove one of them\n" $flag $value) -}}
{{- end -}}
{{- $_ := set $config $flag $text -}}
{{- end -}}
{{- end -}}
{{- range $flag, $given := .Values.config -}}
{{- $_ := set $config $flag (include "istio-pod-network-controller.text" $given) -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/*
The cluster's redirect options as words for the gate, as {"words": [...]}. They come before the word istio-iptables: gate and
controller take them where a pod says nothing. Options that say how a pod's rules are written do not matter to a gate.
*/}}
{{- define "istio-pod-network-controller.gateDefaults" -}}
{{- $config := include "istio-pod-network-controller.config" . | fromYaml -}}
{{- $words := list -}}
{{- range $flag := list "istio-inbound-interception-mode" "istio-inbound-ports" "istio-inbound-tproxy-mark"
  "istio-inbound-tproxy-route-table" "istio-service-cidr" "istio-local-outbound-ports-exclude" "istio-exclude-interfaces"
  "loopback-cidr" "envoy-port" "inbound-capture-port" "inbound-tunnel-port" "proxy-uid" "proxy-gid" "redirect-dns"
  "dual-stack" "ip-families" "unserved-families" -}}
{{- if and (hasKey $config $flag) (ne (printf "%s=%v" $flag (get $config $flag)) "unserved-families=leave") -}}
{{- $words = append $words (printf "--%s=%s" $flag (include "istio-pod-network-controller.text" (get $config $flag))) -}}
{{- end -}}
{{- end -}}
{{- dict "words" $words | toJson -}}
{{- end -}}
