{{- define "istio-pod-network-controller.name" -}}
{{- .Chart.Name -}}
{{- end -}}

{{- define "istio-pod-network-controller.namespace" -}}
{{- .Values.Namespace | default .Release.Namespace -}}
{{- end -}}

{{- define "istio-pod-network-controller.image" -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}

{{- define "istio-pod-network-controller.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}
