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
{{- $lack := "this API server has no MutatingAdmissionPolicy (Kubernetes 1.36, or 1.34 with the feature enabled)" }}
{{- fail (printf "injection.mode: policy: %s; expected istio or none" $lack) }}
{{- else if ne .Values.injection.mode "auto" -}}
{{ .Values.injection.mode }}
{{- else -}}
{{ ternary "policy" "none" (ne $version "") }}
{{- end }}
{{- end }}

{{/*
Where pods wait, as {"wait": "sidecar" or "init", "why": REASON}. The reason is in the DaemonSet's pods, so it says nothing
that changes without the choice. auto is sidecar if the API server has image volumes (on by default since Kubernetes 1.35),
and the kubelet and the runtime of every node that can be seen now mount them. A pod on a node that cannot mount one would
never start.
*/}}
{{- define "istio-pod-network-controller.injectionChoice" -}}
{{- $version := .Capabilities.KubeVersion.Version }}
{{- $wait := .Values.injection.wait }}
{{- if and (eq $wait "sidecar") (not (semverCompare ">=1.31-0" $version)) -}}
{{- fail (printf "injection.wait: sidecar: Kubernetes %s has no image volumes (1.35, or 1.31 with the feature enabled); expected init or auto" $version) }}
{{- else if ne $wait "auto" -}}
{{- dict "wait" $wait "why" (printf "injection.wait=%s" $wait) | toJson }}
{{- else if not (semverCompare ">=1.35-0" $version) -}}
{{- dict "wait" "init" "why" (printf "Kubernetes %s has no image volumes by default; 1.35 does" $version) | toJson }}
{{- else -}}
{{- $nodes := (lookup "v1" "Node" "" "").items | default list }}
{{- $unable := "" }}
{{- range $nodes }}
{{- $info := .status.nodeInfo | default dict }}
{{- $runtime := splitList "://" ($info.containerRuntimeVersion | default "unknown") }}
{{- $least := get (dict "containerd" "2.1" "cri-o" "1.31") (first $runtime) }}
{{- $kubelet := semver ($info.kubeletVersion | default "0.0.0") }}
{{- if not (semverCompare ">=1.35-0" $kubelet.Original) -}}
{{- $unable = printf "node %s has the kubelet %s, but image volumes need 1.35" .metadata.name $kubelet.Original }}
{{- else if not $least -}}
{{- $unable = printf "node %s has the runtime %s, which is not known to support image volumes" .metadata.name (first $runtime) }}
{{- else if not (semverCompare (printf ">=%s-0" $least) (last $runtime)) -}}
{{- $unable = printf "node %s has %s %s, but image volumes need %s" .metadata.name (first $runtime) (last $runtime) $least }}
{{- end }}
{{- end }}
{{- if not $nodes -}}
{{- dict "wait" "init" "why" "helm template cannot see the nodes" | toJson }}
{{- else if $unable -}}
{{- dict "wait" "init" "why" $unable | toJson }}
{{- else -}}
{{- dict "wait" "sidecar" "why" "all nodes supported image volumes at the time of the installation" | toJson }}
{{- end }}
{{- end }}
{{- end }}

{{/* sidecar or init */}}
{{- define "istio-pod-network-controller.injectionWait" -}}
{{- (include "istio-pod-network-controller.injectionChoice" . | fromJson).wait -}}
{{- end }}

{{/*
The path of the gate in both images: GATE of chart/image/files.ts.
*/}}
{{- define "istio-pod-network-controller.gateCommand" -}}
/usr/local/bin/pod-network-gate
{{- end }}

{{/*
The annotation by which a pod, or its namespace, says whether it is enrolled.
*/}}
{{- define "istio-pod-network-controller.initialize" -}}
istio-pod-network-controller/initialize
{{- end }}

{{/*
How many entries a list of an enrolled pod may have that has to be walked: exists(), filter() and map() take the API server
time that grows with the square of it, which the cost limit of CEL does not see. At this length it is milliseconds.
*/}}
{{- define "istio-pod-network-controller.longest" -}}
1000
{{- end }}

{{/*
Which pods both policies of injection look at.
*/}}
{{- define "istio-pod-network-controller.injectionMatch" -}}
matchConstraints:
  {{- with .Values.excludeNamespaces }}
  namespaceSelector:
    matchExpressions:
      - key: kubernetes.io/metadata.name
        operator: NotIn
        values: {{- toYaml . | nindent 10 }}
  {{- end }}
  resourceRules:
    - apiGroups: [""]
      apiVersions: [v1]
      operations: [CREATE]
      resources: [pods]
# A policy that does not match the first time is not asked again after the webhooks: nothing here may depend on what
# they add.
matchConditions:
  - name: network-of-its-own
    expression: "!object.spec.?hostNetwork.orValue(false)"
  - name: not-the-controller
    expression: >-
      request.namespace != '{{ include "istio-pod-network-controller.namespace" . }}'
      || object.spec.?serviceAccountName.orValue('')
      != '{{ include "istio-pod-network-controller.name" . }}'
  # The kubelet runs the file that it has, whatever is changed here.
  - name: not-a-mirror
    expression: "!('kubernetes.io/config.mirror' in object.metadata.?annotations.orValue({}))"
  - name: not-a-deployer-or-build-of-openshift
    expression: >-
      !['openshift.io/deployer-pod-for.name', 'openshift.io/build.name'].exists(name,
      name in object.metadata.?annotations.orValue({}) || name in object.metadata.?labels.orValue({}))
{{- end }}

{{/*
Variables of both policies of injection: whether the pod may be enrolled, and which of its lists are too long to be walked.
The annotations are asked first, so that a pod that is not enrolled costs next to nothing, however long its lists are.
*/}}
{{- define "istio-pod-network-controller.enrolmentVariables" -}}
{{- $initialize := include "istio-pod-network-controller.initialize" . }}
{{- $longest := include "istio-pod-network-controller.longest" . }}
{{- $true := "['1', 't', 'T', 'true', 'TRUE', 'True']" }}
- name: annotations
  expression: object.metadata.?annotations.orValue({})
- name: said
  expression: >-
    variables.annotations[?'{{ $initialize }}'].or(namespaceObject.metadata.?annotations[?'{{ $initialize }}'])
- name: wanted
  expression: variables.said.orValue('') in {{ $true }}
# Whether the annotations allow that it is enrolled, by either of the ways below.
- name: candidate
  expression: >-
    {{ ne .Values.enroll "istio" }} && variables.wanted
    || {{ ne .Values.enroll "annotation" }} && (variables.wanted || !variables.said.hasValue())
    && 'sidecar.istio.io/status' in variables.annotations

- name: inits
  expression: object.spec.?initContainers.orValue([])
- name: lengths
  expression: >-
    {'spec.initContainers': variables.inits.size(), 'spec.containers': object.spec.containers.size(),
    'spec.volumes': object.spec.?volumes.orValue([]).size()}
- name: tooLong
  expression: variables.lengths.filter(field, variables.lengths[field] > {{ $longest }})
{{- end }}
