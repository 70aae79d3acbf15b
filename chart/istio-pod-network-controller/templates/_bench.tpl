{{/* The Job's spec. A Job cannot be changed, so it is named by this, and another one is another Job. */}}
{{- define "istio-pod-network-controller.benchSpec" -}}
{{- $bench := .Values.bench -}}
backoffLimit: 0
activeDeadlineSeconds: {{ $bench.activeDeadlineSeconds }}
ttlSecondsAfterFinished: {{ $bench.ttlSecondsAfterFinished }}
template:
  metadata:
    labels:
      {{- /* Not the controller's: no Service and no policy of its takes this pod for one. */}}
      app.kubernetes.io/name: {{ .Chart.Name }}-bench
      app.kubernetes.io/instance: {{ .Release.Name }}
      sidecar.istio.io/inject: "false"
    annotations:
      istio-pod-network-controller/initialize: "false"
      {{- if eq .Values.kubernetesDistribution "OpenShift" }}
      openshift.io/required-scc: {{ include "istio-pod-network-controller.name" . }}-bench
      {{- end }}
      {{- if semverCompare "<1.30-0" .Capabilities.KubeVersion.Version }}
      container.apparmor.security.beta.kubernetes.io/bench: unconfined
      {{- end }}
  spec:
    restartPolicy: Never
    serviceAccountName: {{ include "istio-pod-network-controller.name" . }}-bench
    automountServiceAccountToken: false
    enableServiceLinks: false
    hostUsers: {{ $bench.hostUsers }}
    {{- with .Values.imagePullSecrets }}
    imagePullSecrets:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with $bench.nodeName }}
    nodeName: {{ . }}
    {{- end }}
    {{- with $bench.nodeSelector }}
    nodeSelector:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with $bench.tolerations }}
    tolerations:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    securityContext:
      seccompProfile:
        type: RuntimeDefault
      {{- if semverCompare ">=1.30-0" .Capabilities.KubeVersion.Version }}
      # The runtime's profile forbids mount(), whatever the capabilities.
      appArmorProfile:
        type: Unconfined
      {{- end }}
    containers:
      - name: bench
        image: {{ include "istio-pod-network-controller.benchImage" . | quote }}
        imagePullPolicy: {{ .Values.image.pullPolicy }}
        args:
          # The results are the log's last line: files would go with the pod.
          - --output
          - "-"
          {{- range $bench.args }}
          - {{ . | quote }}
          {{- end }}
        env:
          - name: NODE_NAME
            valueFrom:
              fieldRef:
                fieldPath: spec.nodeName
        # The gate, which is measured too, tells its own story in the usual place.
        terminationMessagePath: /dev/termination-log-of-bench
        {{- with $bench.resources }}
        resources:
          {{- toYaml . | nindent 10 }}
        {{- end }}
        securityContext:
          runAsUser: 0
          runAsGroup: 0
          privileged: false
          allowPrivilegeEscalation: false
          readOnlyRootFilesystem: true
          capabilities:
            drop: [ALL]
            add:
              {{- include "istio-pod-network-controller.benchCapabilities" . | nindent 14 }}
          {{- if eq .Values.kubernetesDistribution "OpenShift" }}
          # container_t may not mount.
          seLinuxOptions:
            user: system_u
            role: system_r
            type: spc_t
            level: s0
          {{- end }}
        volumeMounts:
          - name: tmp
            mountPath: /tmp
    volumes:
      # Programs are started from there.
      - name: tmp
        emptyDir: {}
{{- end -}}

{{- define "istio-pod-network-controller.benchCapabilities" -}}
# Network and mount namespaces of its own, and nsfs mounts in them: unshare(), mount(), setns().
- SYS_ADMIN
# Rules, routes and addresses in these network namespaces.
- NET_ADMIN
# The raw socket through which legacy iptables' tables are read and written.
- NET_RAW
# The gate is started as the proxy's uid and gid, as in a pod, and ended if need be.
- SETUID
- SETGID
- KILL
{{- end -}}

{{- define "istio-pod-network-controller.benchName" -}}
{{- $spec := include "istio-pod-network-controller.benchSpec" . -}}
{{- printf "%s-bench-%s" (include "istio-pod-network-controller.name" .) ($spec | sha256sum | trunc 8) -}}
{{- end -}}

{{- define "istio-pod-network-controller.benchImage" -}}
{{- $repository := .Values.bench.image.repository | default .Values.image.repository -}}
{{- if .Values.bench.image.digest -}}
{{- printf "%s@%s" $repository .Values.bench.image.digest -}}
{{- else -}}
{{- $tag := printf "%s-bench" (.Values.image.tag | default .Chart.AppVersion) -}}
{{- printf "%s:%s" $repository (.Values.bench.image.tag | default $tag) -}}
{{- end -}}
{{- end -}}
