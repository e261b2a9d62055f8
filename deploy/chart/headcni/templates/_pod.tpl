{{/* The daemon's pod; with `leaving`, the pod that takes the daemon's place and undoes what it did (see uninstall.yaml).
     Call with (dict "root" . "leaving" false).

     Rights, measured: uid 0 with NET_ADMIN and SYS_ADMIN is the least that enters a pod's network namespace and writes
     there. No privileged, no hostPID, no NET_RAW. With SELinux, spc_t may write the host's directories.

     Nothing here needs a Service's address: the name server is the host's, and the API is reached as the kubelet does. */}}
{{- define "headcni.pod" -}}
{{- $root := .root -}}
{{- $leaving := .leaving -}}
{{- $unprivileged := include "headcni.unprivileged" $root -}}
{{- $privileged := include "headcni.privileged" $root -}}
metadata:
  labels:
    {{- include "headcni.selector" (list $root "daemon") | nindent 4 }}
    headcni.io/leaving: {{ $leaving | quote }}
  annotations:
    kubectl.kubernetes.io/default-container: daemon
    headcni.io/configuration: {{ printf "%s\n%s" (include "headcni.config" $root) (include "headcni.conflist" $root) | sha256sum }}
spec:
  serviceAccountName: {{ include "headcni.account" $root }}
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  hostNetwork: true
  dnsPolicy: Default
  enableServiceLinks: false
  priorityClassName: {{ $root.Values.priorityClassName }}
  terminationGracePeriodSeconds: 10
  nodeSelector:
    {{- merge (dict "kubernetes.io/os" "linux") $root.Values.nodeSelector | toYaml | nindent 4 }}
  tolerations:
    - operator: Exists
  securityContext:
    runAsUser: 0
    runAsGroup: 0
    seccompProfile:
      type: RuntimeDefault
    seLinuxOptions:
      type: spc_t
  initContainers:
    - name: install
      {{- include "headcni.program" $root | nindent 6 }}
      {{- if $leaving }}
      args:
        - uninstall
        {{- if include "headcni.reachesTailscale" $root }}
        - --tailscale-socket={{ include "headcni.tailscaleSocket" $root }}
        {{- end }}
        {{- if $root.Values.uninstall.purge }}
        - --purge
        {{- end }}
      {{- else }}
      args:
        - install
        - --bin-dir={{ $root.Values.config.cni.binDir }}
        - --plugin=/opt/headcni/plugin/headcni
        - --loopback=/opt/headcni/plugin/loopback
      {{- end }}
      securityContext:
        {{- $leaving | ternary $privileged $unprivileged | nindent 8 }}
      volumeMounts:
        {{- include ($leaving | ternary "headcni.leavingMounts" "headcni.installMounts") $root | trim | nindent 8 }}
  containers:
    - name: daemon
      {{- include "headcni.program" $root | nindent 6 }}
      {{- if $leaving }}
      args: [states]  # a pod must have a container; this one prints a table, and ends
      securityContext:
        {{- $unprivileged | nindent 8 }}
      {{- else }}
      args: [daemon]
      securityContext:
        {{- $privileged | nindent 8 }}
      startupProbe:
        {{- include "headcni.probe" (list $root "/healthz") | nindent 8 }}
        periodSeconds: 5
        failureThreshold: 36
      livenessProbe:
        {{- include "headcni.probe" (list $root "/healthz") | nindent 8 }}
        periodSeconds: 10
        failureThreshold: 3
      readinessProbe:
        {{- include "headcni.probe" (list $root "/readyz") | nindent 8 }}
        periodSeconds: 5
        failureThreshold: 2
      volumeMounts:
        {{- include "headcni.daemonMounts" $root | trim | nindent 8 }}
      {{- end }}
  volumes:
    {{- include "headcni.volumes" . | trim | nindent 4 }}
{{- end -}}

{{- define "headcni.program" -}}
image: {{ include "headcni.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
  - name: NODE_NAME
    valueFrom:
      fieldRef:
        fieldPath: spec.nodeName
  - name: HEADCNI_CONFIG
    value: /etc/headcni/config.yaml
  - name: HEADCNI_STATE_DIR
    value: {{ .Values.config.stateDir }}
  - name: HEADCNI_HOST_ROOT
    value: /host
terminationMessagePolicy: FallbackToLogsOnError
resources:
  {{- toYaml .Values.resources | nindent 2 }}
{{- end -}}

{{- define "headcni.privileged" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
  add: [NET_ADMIN, SYS_ADMIN]
readOnlyRootFilesystem: true
{{- end -}}

{{/* The kubelet asks on the host, so loopback will do. Call with (list . "/path"). */}}
{{- define "headcni.probe" -}}
{{- $metrics := (index . 0).Values.config.metrics -}}
httpGet:
  host: {{ has $metrics.address (list "0.0.0.0" "::") | ternary "127.0.0.1" $metrics.address | quote }}
  port: {{ $metrics.port }}
  path: {{ index . 1 }}
timeoutSeconds: 5
{{- end -}}
