{{/* What this cluster is. `lookup` gives nothing where Helm talks to no cluster: then the distribution's defaults hold. */}}

{{- define "headcni.connected" -}}
{{- if lookup "v1" "Namespace" "" "kube-system" }}true{{ end -}}
{{- end -}}

{{- define "headcni.distribution" -}}
{{- $version := .Capabilities.KubeVersion.Version -}}
{{- if ne .Values.distribution "auto" -}}
{{- .Values.distribution -}}
{{- else if contains "+k3s" $version -}}
k3s
{{- else if contains "+rke2" $version -}}
rke2
{{- else if or (not (include "headcni.connected" .)) (lookup "v1" "ConfigMap" "kube-system" "kubeadm-config") -}}
kubeadm
{{- else -}}
other
{{- end -}}
{{- end -}}

{{/* As JSON: podSubnet and serviceSubnet, as far as they are known. */}}
{{- define "headcni.networking" -}}
{{- $distribution := include "headcni.distribution" . -}}
{{- if eq $distribution "kubeadm" -}}
{{- $config := lookup "v1" "ConfigMap" "kube-system" "kubeadm-config" -}}
{{- $told := dig "data" "ClusterConfiguration" "{}" ($config | default dict) | fromYaml -}}
{{- dig "networking" dict $told | default dict | toJson -}}
{{- else if has $distribution (list "k3s" "rke2") -}}
{{- dict "podSubnet" "10.42.0.0/16" "serviceSubnet" "10.43.0.0/16" | toJson -}}
{{- else -}}
{}
{{- end -}}
{{- end -}}

{{/* Files of the node, as a JSON list. Only what is on every node of such a cluster: a missing file keeps a pod from
     starting. None of them holds a key that is not this node's own. Left out, though the daemon could read them: the
     directories /etc/kubernetes and /etc/rancher, for there are the keys of the whole cluster on a control plane. */}}
{{- define "headcni.nodeFiles" -}}
{{- $distribution := include "headcni.distribution" . -}}
{{- if kindIs "slice" .Values.nodeFiles -}}
{{- .Values.nodeFiles | toJson -}}
{{- else if eq $distribution "kubeadm" -}}
{{- list "/etc/kubernetes/kubelet.conf" "/var/lib/kubelet/config.yaml" | toJson -}}
{{- else if has $distribution (list "k3s" "rke2") -}}
{{- $agent := printf "/var/lib/rancher/%s/agent" $distribution -}}
{{- list (print $agent "/kubelet.kubeconfig") (print $agent "/server-ca.crt") (print $agent "/etc/") | toJson -}}
{{- else -}}
[]
{{- end -}}
{{- end -}}

{{- define "headcni.chained" -}}
{{- if kindIs "slice" .Values.conflist.chained -}}
{{- .Values.conflist.chained | toJson -}}
{{- else -}}
{{- eq (include "headcni.distribution" .) "kubeadm" | ternary (list "portmap") list | toJson -}}
{{- end -}}
{{- end -}}
