{{/* What the containers of the daemon's pod see of the host, each directory under its own name, and below /host what
     settings speak of as the host's. Three are not what one would expect:

     - /proc/sys is read-only in a container, so the host's /proc/sys/net is mounted beside it. Not the whole of /proc/sys:
       with it one can take over the host.
     - Of tailscaled, the directory *above* that of its socket. systemd removes /run/tailscale when tailscaled stops, and
       makes another one: a mount of the old one would never see the new socket. It is there also where config.mesh.mode
       says none in so many words: it may have said something else before, and then announcements are to be withdrawn.
     - The pod that leaves has the directory above the state directory: what is itself mounted cannot be removed. */}}

{{- define "headcni.reachesTailscale" -}}
{{- if or .Values.config.mesh.mode (eq (include "headcni.mesh" .) "tailscale") }}true{{ end -}}
{{- end -}}

{{- define "headcni.tailscaleSocket" -}}
/host{{ .Values.config.tailscale.socket }}
{{- end -}}

{{- define "headcni.tailscaleDir" -}}
{{- .Values.config.tailscale.socket | dir | dir -}}
{{- end -}}

{{- define "headcni.installMounts" -}}
- name: configuration
  mountPath: /etc/headcni
  readOnly: true
- name: state
  mountPath: {{ .Values.config.stateDir }}
- name: cni-bin
  mountPath: {{ .Values.config.cni.binDir }}
{{- end -}}

{{/* For whoever speaks to the kernel, and to tailscaled. */}}
{{- define "headcni.plumbingMounts" -}}
- name: cni-conf
  mountPath: {{ .Values.config.cni.confDir }}
- name: netns
  mountPath: /var/run/netns
  mountPropagation: HostToContainer
- name: sysctls
  mountPath: /host/proc/sys/net
{{- if include "headcni.reachesTailscale" . }}
- name: tailscale
  mountPath: /host{{ include "headcni.tailscaleDir" . }}
  readOnly: true
  mountPropagation: HostToContainer
{{- end }}
{{- end -}}

{{- define "headcni.leavingMounts" -}}
- name: state
  mountPath: {{ dir .Values.config.stateDir }}
- name: cni-bin
  mountPath: {{ .Values.config.cni.binDir }}
{{ include "headcni.plumbingMounts" . }}
{{- end -}}

{{- define "headcni.daemonMounts" -}}
{{- $cni := .Values.config.cni -}}
- name: configuration
  mountPath: /etc/headcni
  readOnly: true
{{- if include "headcni.daemonKeys" . }}
- name: keys
  mountPath: /run/headcni/keys
  readOnly: true
{{- end }}
- name: state
  mountPath: {{ .Values.config.stateDir }}
- name: cni-bin
  mountPath: {{ $cni.binDir }}
  readOnly: true
{{ include "headcni.plumbingMounts" . }}
- name: cni-bin
  mountPath: /host{{ $cni.binDir }}
  readOnly: true
- name: cni-conf
  mountPath: /host{{ $cni.confDir }}
  readOnly: true
{{- if ne .Values.config.ipam.type "headcni-ipam" }}
- name: leases
  mountPath: /var/lib/cni
{{- end }}
{{- range $number, $file := include "headcni.nodeFiles" . | fromJsonArray }}
- name: node-file-{{ $number }}
  mountPath: /host{{ trimSuffix "/" $file }}
  readOnly: true
{{- end }}
- name: tmp
  mountPath: /tmp
{{- end -}}

{{/* Of the Secret, what the daemon may read. */}}
{{- define "headcni.daemonKeys" -}}
{{- if eq (include "headcni.mesh" .) "tailscale" -}}
{{- if include "headcni.hasKey" (list . "authKey") }}
- key: auth-key
  path: auth-key
{{- end }}
{{- if eq .Values.config.mesh.approval "key" }}
- key: api-key
  path: api-key
{{- end }}
{{- end -}}
{{- end -}}

{{/* Call with (list "name" "path" "type"). */}}
{{- define "headcni.hostPath" -}}
- name: {{ index . 0 }}
  hostPath:
    path: {{ index . 1 }}
    type: {{ index . 2 }}
{{- end -}}

{{/* Call as headcni.pod. */}}
{{- define "headcni.volumes" -}}
{{- $leaving := .leaving -}}
{{- with .root -}}
{{- $state := .Values.config.stateDir -}}
{{ include "headcni.hostPath" ($leaving | ternary (list "state" (dir $state) "Directory") (list "state" $state "DirectoryOrCreate")) }}
{{ include "headcni.hostPath" (list "cni-bin" .Values.config.cni.binDir "DirectoryOrCreate") }}
{{ include "headcni.hostPath" (list "cni-conf" .Values.config.cni.confDir "DirectoryOrCreate") }}
{{ include "headcni.hostPath" (list "netns" "/var/run/netns" "DirectoryOrCreate") }}
{{ include "headcni.hostPath" (list "sysctls" "/proc/sys/net" "Directory") }}
{{- if include "headcni.reachesTailscale" . }}
{{ include "headcni.hostPath" (list "tailscale" (include "headcni.tailscaleDir" .) "Directory") }}
{{- end }}
{{- if not $leaving }}
- name: configuration
  configMap:
    name: {{ include "headcni.name" . }}
{{- with include "headcni.daemonKeys" . }}
- name: keys
  secret:
    secretName: {{ include "headcni.secret" $.root }}
    defaultMode: 0400
    optional: true  # without it the daemon says what it lacks; pods get their network nevertheless
    items:
      {{- . | trim | nindent 6 }}
{{- end }}
{{- if ne .Values.config.ipam.type "headcni-ipam" }}
{{ include "headcni.hostPath" (list "leases" "/var/lib/cni" "DirectoryOrCreate") }}
{{- end }}
{{- range $number, $file := include "headcni.nodeFiles" . | fromJsonArray }}
{{ include "headcni.hostPath" (list (print "node-file-" $number) (trimSuffix "/" $file) (hasSuffix "/" $file | ternary "Directory" "File")) }}
{{- end }}
- name: tmp
  emptyDir: {}
{{- end }}
{{- end -}}
{{- end -}}
