{{/*
The version of a kind of admissionregistration.k8s.io that the API server serves, or nothing.
(dict "root" $ "kind" KIND "since" RELEASE) where RELEASE is the first Kubernetes with v1.
*/}}
{{- define "istio-pod-network-controller.admissionVersion" -}}
{{- $served := .root.Capabilities.APIVersions }}
{{- if $served.Has (printf "admissionregistration.k8s.io/v1/%s" .kind) -}}
admissionregistration.k8s.io/v1
{{- else if $served.Has (printf "admissionregistration.k8s.io/v1beta1/%s" .kind) -}}
admissionregistration.k8s.io/v1beta1
{{- /* `helm template` asks no server, and then knows versions but no kind at all. */ -}}
{{- else if not ($served.Has "v1/Pod") -}}
{{- if semverCompare (printf ">=%s-0" .since) .root.Capabilities.KubeVersion.Version -}}
admissionregistration.k8s.io/v1
{{- end }}
{{- end }}
{{- end }}

{{/*
policy, istio or none. auto is policy where the API server has it.
*/}}
{{- define "istio-pod-network-controller.injectionMode" -}}
{{- $kind := dict "root" $ "kind" "MutatingAdmissionPolicy" "since" "1.36" }}
{{- $version := include "istio-pod-network-controller.admissionVersion" $kind }}
{{- if and (eq .Values.injection.mode "policy") (not $version) -}}
{{- $lack := "this API server has no MutatingAdmissionPolicy (Kubernetes 1.36, or 1.34 where it is switched on)" }}
{{- fail (printf "injection.mode: policy: %s; istio or none would be right" $lack) }}
{{- else if ne .Values.injection.mode "auto" -}}
{{ .Values.injection.mode }}
{{- else -}}
{{ ternary "policy" "none" (ne $version "") }}
{{- end }}
{{- end }}

{{/*
sidecar or init: where pods wait. auto is sidecar if the API server has image volumes (on by default since Kubernetes 1.35)
and the runtime of every node that can be seen now mounts them.
*/}}
{{- define "istio-pod-network-controller.injectionWait" -}}
{{- if ne .Values.injection.wait "auto" -}}
{{ .Values.injection.wait }}
{{- else if not (semverCompare ">=1.35-0" .Capabilities.KubeVersion.Version) -}}
init
{{- else -}}
{{- $nodes := (lookup "v1" "Node" "" "").items | default list }}
{{- $able := gt (len $nodes) 0 }}
{{- range $nodes }}
{{- $runtime := splitList "://" .status.nodeInfo.containerRuntimeVersion }}
{{- $least := get (dict "containerd" ">=2.1-0" "cri-o" ">=1.31-0") (first $runtime) }}
{{- if or (not $least) (not (semverCompare ($least | default ">=0") (last $runtime))) }}{{ $able = false }}{{ end }}
{{- end }}
{{- ternary "sidecar" "init" $able }}
{{- end }}
{{- end }}

{{/*
Where the image has the gate: GATE of test/cluster/images/controller.ts.
*/}}
{{- define "istio-pod-network-controller.gateCommand" -}}
/usr/local/bin/pod-network-gate
{{- end }}
