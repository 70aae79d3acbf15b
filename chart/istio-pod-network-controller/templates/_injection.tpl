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
{{- else if and (not ($served.Has "v1/Pod")) (semverCompare (printf ">=%s-0" .since) .root.Capabilities.KubeVersion.Version) -}}
admissionregistration.k8s.io/v1
{{- end }}
{{- end }}
