# shellcheck shell=bash
# What must be so before anything is changed: tools, API server, rights, nodes, other plugins, Headscale.

at_least() { # version, major, minor
  [[ $1 =~ ^v?([0-9]+)\.([0-9]+) ]] && ((BASH_REMATCH[1] > $2 || (BASH_REMATCH[1] == $2 && BASH_REMATCH[2] >= $3)))
}

first_line() { head -n 1 "$1" | cut -c 1-300; }

joined() { # with commas
  local IFS=,
  echo "$*"
}

check_tools() {
  local each
  for each in kubectl helm; do
    command -v "$each" >/dev/null || problem "$each is missing" "install it, and see that it is in PATH"
  done
  stop_if_problems
  HELM_VERSION=$(helm version --template '{{.Version}}' 2>/dev/null) || HELM_VERSION=''
  at_least "$HELM_VERSION" 3 8 || problem "helm is ${HELM_VERSION:-of an unknown version}" "install Helm 3.8 or newer"
  stop_if_problems
  ok "kubectl, helm $HELM_VERSION"
}

check_api() {
  local context
  context=$(kubectl config current-context 2>/dev/null) || context='(none)'
  if ! kubectl get --raw /version --request-timeout 10s >"$WORK/version" 2>"$WORK/error"; then
    problem "the API server of the context $context does not answer: $(first_line "$WORK/error")" \
      "choose another (kubectl config use-context, KUBECONFIG), or see that it runs"
    stop_if_problems
  fi
  KUBERNETES=$(sed -n 's/.*"gitVersion": *"\([^"]*\)".*/\1/p' "$WORK/version")
  at_least "$KUBERNETES" 1 20 || problem "Kubernetes is ${KUBERNETES:-of an unknown version}" "HeadCNI needs 1.20 or newer"
  ok "Kubernetes $KUBERNETES, context $context"
}

check_rights() {
  local each missing=() rbac=rbac.authorization.k8s.io
  if kubectl auth can-i '*' '*' --all-namespaces >/dev/null 2>&1; then
    ok "this account may do everything"
    return
  fi
  for each in daemonsets.apps configmaps secrets serviceaccounts {roles,rolebindings,clusterroles,clusterrolebindings}.$rbac; do
    kubectl auth can-i create "$each" --namespace "$NAMESPACE" >/dev/null 2>&1 || missing+=("create ${each%%.*}")
  done
  kubectl auth can-i list nodes >/dev/null 2>&1 || missing+=("list nodes")
  if ((${#missing[@]})); then
    problem "this account may not, in namespace $NAMESPACE: $(joined "${missing[@]}")" \
      "use an administrator's kubeconfig; kubectl auth can-i --list shows what this one may"
    return
  fi
  ok "rights in namespace $NAMESPACE"
}

# A line for each node: name|system|kernel|pod CIDRs|addresses|backend of Flannel
NODES='{{range .items}}{{.metadata.name}}|{{with .status.nodeInfo}}{{.operatingSystem}}|{{.kernelVersion}}{{else}}|{{end}}|
{{- with .spec}}{{range .podCIDRs}}{{.}} {{end}}{{end}}|
{{- range .status.addresses}}{{if eq .type "InternalIP" "ExternalIP"}}{{.address}} {{end}}{{end}}|
{{- with .metadata.annotations}}{{with index . "flannel.alpha.coreos.com/backend-type"}}{{.}}{{end}}{{end}}
{{end}}'

check_nodes() {
  local name system kernel rest count=0
  if ! kubectl get nodes -o go-template="$NODES" >"$WORK/all-nodes" 2>"$WORK/error"; then
    problem "the nodes cannot be listed: $(first_line "$WORK/error")" "see that this account may list nodes"
  fi
  sed '/^$/d' "$WORK/all-nodes" >"$WORK/nodes"
  while IFS='|' read -r name system kernel rest; do
    count=$((count + 1))
    if [[ $system == windows ]]; then
      note "the node $name runs Windows: HeadCNI stays away from it"
    elif [[ -n $kernel ]] && ! at_least "$kernel" 4 19; then
      problem "the node $name runs Linux $kernel" "HeadCNI needs 4.19 or newer"
    fi
  done <"$WORK/nodes"
  if ((count)); then ok "nodes: $count"; else note "there are no nodes yet"; fi
}

OTHER_PLUGINS=()
check_other_plugins() {
  local where each
  if ! kubectl get daemonsets --all-namespaces --no-headers \
    -o custom-columns=NAMESPACE:.metadata.namespace,NAME:.metadata.name >"$WORK/daemonsets" 2>"$WORK/error"; then
    note "other network plugins were not looked for: $(first_line "$WORK/error")"
    return
  fi
  while read -r where each; do
    case $each in
      *flannel* | calico-node* | canal* | cilium | cilium-agent | weave-net* | antrea-agent | kube-router* | kindnet | \
        aws-node | azure-cni* | ovnkube-node*) OTHER_PLUGINS+=("$where/$each") ;;
    esac
  done <"$WORK/daemonsets"
  if ((${#OTHER_PLUGINS[@]})) && [[ -z $BESIDE ]]; then
    problem "the cluster has another network plugin: DaemonSet $(joined "${OTHER_PLUGINS[@]}")" \
      "see docs/migrate-flannel.md; with --beside HeadCNI is installed all the same"
  elif ((${#OTHER_PLUGINS[@]})); then
    note "beside $(joined "${OTHER_PLUGINS[@]}")"
  elif grep -q '|[^|]\{1,\}$' "$WORK/nodes"; then
    note "nodes have leases of Flannel: if k3s still runs its own, see docs/migrate-flannel.md"
  else
    ok "no other network plugin"
  fi
}

check_namespace() {
  local enforced='{{with .metadata.labels}}{{with index . "pod-security.kubernetes.io/enforce"}}{{.}}{{end}}{{end}}'
  enforced=$(kubectl get namespace "$NAMESPACE" -o go-template="$enforced" 2>/dev/null) || return 0 # Helm makes it
  [[ -z $enforced || $enforced == privileged ]] ||
    problem "namespace $NAMESPACE lets in only pods that keep to $enforced" \
      "kubectl label --overwrite namespace $NAMESPACE pod-security.kubernetes.io/enforce=privileged"
}

check_headscale() {
  [[ -n $URL ]] || return 0
  [[ -n $KEY ]] || note "no key is given: a node that is not joined stays outside, unless an earlier run brought one"
  case ${URL#*//} in
    localhost* | 127.* | \[::1\]*) note "$URL: each node would look for Headscale on itself" ;;
  esac
  if ! command -v curl >/dev/null; then
    note "Headscale was not asked: curl is missing here"
  elif curl --silent --fail --output /dev/null --max-time 5 "${URL%/}/health"; then
    ok "Headscale answers at $URL"
  else
    note "Headscale does not answer at $URL from here; the nodes must reach it"
  fi
}
