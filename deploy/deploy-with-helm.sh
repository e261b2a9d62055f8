#!/usr/bin/env bash
# Puts HeadCNI on the cluster of the current kubectl context with Helm, or takes it away. It looks before it acts, tells
# each step, and ends with the state of each node. It may be run again: what is there is upgraded, and what is not named
# stays as it was.
#
# The key goes to Helm in a file that only this user can read, and that is gone when the script ends; never as an argument,
# nor in another program's environment. Needs bash 4, kubectl and helm, and no jq.
set -eo pipefail # not -u: before bash 4.4 an empty list counts as unset

if ((BASH_VERSINFO[0] < 4)); then
  echo "error: this is bash $BASH_VERSION, and bash 4 is needed" >&2
  exit 2
fi

export LC_ALL=C # in other locales [a-z] and [!-~] are not what they are in ASCII

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CHART=$HERE/chart/headcni
# shellcheck source=deploy/with-helm/addresses.sh
source "$HERE/with-helm/addresses.sh"
# shellcheck source=deploy/with-helm/cluster.sh
source "$HERE/with-helm/cluster.sh"
# shellcheck source=deploy/with-helm/values.sh
source "$HERE/with-helm/values.sh"
# shellcheck source=deploy/with-helm/nodes.sh
source "$HERE/with-helm/nodes.sh"

usage() {
  cat <<'END'
Usage: deploy-with-helm.sh -u URL [-K FILE | -k KEY] [option …]
       deploy-with-helm.sh --uninstall [--purge] [-n NAMESPACE] [--release NAME]

  -u, --url URL            Headscale's server_url. Without it, a values file (-f, --set) says what there is
  -K, --key-file FILE      the key by which nodes join is in FILE; - for standard input
  -k, --key KEY            the key itself. It stands in the process list: -K or HEADCNI_AUTH_KEY keep it out
  -n, --namespace NAME     default: kube-system
      --release NAME       default: headcni
      --pod-cidr CIDR      the pods of all nodes; for dual stack two, with a comma between
      --per-node /24       size of one node's share, where Kubernetes gave it none
      --service-cidr CIDR  addresses of Services
      --distribution NAME  auto, kubeadm, k3s, rke2 or other
  -f, --values FILE        further values; may be repeated. What is said by an option wins
      --set KEY=VALUE      one value; may be repeated
      --beside             although another network plugin is there: see docs/migrate-flannel.md
      --dry-run            look, print the manifests without the key, and change nothing
      --wait SECONDS       for the nodes, at most; default 300; 0: not at all
      --uninstall          put every node back as it was, and take everything away
      --purge              with --uninstall: also cut off the pods that still have their network from HeadCNI
  -h, --help

Exit codes: 0 done; 1 something is not as it must be, and nothing was changed; 2 the command line is wrong; 3 Helm
failed, and its words are shown; 4 installed, but not every node was ready in time.
END
}

# --- what is told

exec 3>&1
say() { printf '%s\n' "$*" >&3; }
ok() { say "  ok    $*"; }
note() { say "  note  $*"; }

# With its cure. Looking goes on, so that all problems are told at once.
PROBLEMS=0
problem() {
  PROBLEMS=$((PROBLEMS + 1))
  printf '  NO    %s\n        %s\n' "$1" "$2" >&2
}

stop_if_problems() {
  ((PROBLEMS)) || return 0
  echo "error: nothing was changed" >&2
  exit 1
}

wrong() { # of the command line
  printf 'error: %s\n  cure: %s\n' "$1" "$2" >&2
  exit 2
}

# --- the command line

NAMESPACE=kube-system RELEASE=headcni WAIT=300
URL='' KEY='' KEY_FILE='' POD_CIDR='' PER_NODE='' SERVICE_CIDR='' DISTRIBUTION='' BESIDE='' DRY_RUN='' UNINSTALL='' PURGE=''
VALUES=() SETS=()

read_command_line() {
  local option value
  while (($#)); do
    option=$1 && shift
    case $option in
      -h | --help) usage && exit 0 ;;
      --beside) BESIDE=yes && continue ;;
      --dry-run) DRY_RUN=yes && continue ;;
      --uninstall) UNINSTALL=yes && continue ;;
      --purge) PURGE=yes && continue ;;
      --beside=* | --dry-run=* | --uninstall=* | --purge=*) wrong "${option%%=*} takes no value" "say it alone, or not at all" ;;
      --*=*) value=${option#*=} option=${option%%=*} ;;
      *) value=$1 && shift $(($# > 0)) ;;
    esac
    case $option in
      -u | --url) URL=$value ;;
      -k | --key) KEY=$value ;;
      -K | --key-file) KEY_FILE=$value ;;
      -n | --namespace) NAMESPACE=$value ;;
      --release) RELEASE=$value ;;
      --pod-cidr) POD_CIDR=$value ;;
      --per-node) PER_NODE=$value ;;
      --service-cidr) SERVICE_CIDR=$value ;;
      --distribution) DISTRIBUTION=$value ;;
      -f | --values) VALUES+=("$value") ;;
      --set) SETS+=("$value") ;;
      --wait) WAIT=$value ;;
      *) wrong "$option is no option" "deploy-with-helm.sh --help has them all" ;;
    esac
    [[ -n $value ]] || wrong "$option needs a value" "deploy-with-helm.sh --help says which"
  done
}

check_command_line() {
  local each example="write scheme, host and port, like https://headscale.example.com"
  check_name --namespace "$NAMESPACE" 63
  check_name --release "$RELEASE" 53
  [[ $WAIT =~ ^(0|[1-9][0-9]{0,4})$ ]] || wrong "--wait $WAIT: is no number of seconds" "write one like 300"
  [[ -z $PURGE || -n $UNINSTALL ]] || wrong "--purge without --uninstall" "say both, or neither"
  [[ -z $DRY_RUN || -z $UNINSTALL ]] || wrong "--dry-run with --uninstall" "helm get manifest shows what there is"
  [[ -z $UNINSTALL ]] || return 0
  [[ $URL != *@* ]] || wrong "-u: holds an @, as before a password" "$example"
  [[ -z $URL || $URL =~ ^https?://([A-Za-z0-9._-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?(/[^[:space:]?#]*)?$ ]] ||
    wrong "-u $URL: is no server's URL" "$example"
  [[ -n $URL || ${#VALUES[@]} -gt 0 || ${#SETS[@]} -gt 0 ]] ||
    wrong "-u is missing: where is Headscale?" "$example; for a cluster without a mesh say --set config.mesh.mode=none"
  check_cidrs --pod-cidr "$POD_CIDR"
  check_cidrs --service-cidr "$SERVICE_CIDR"
  [[ -z $PER_NODE || $PER_NODE =~ ^/?([89]|[12][0-9]|30)$ ]] ||
    wrong "--per-node $PER_NODE: is no prefix length of a share" "write /8 to /30, like /24"
  [[ $DISTRIBUTION =~ ^(|auto|kubeadm|k3s|rke2|other)$ ]] ||
    wrong "--distribution $DISTRIBUTION: is unknown" "write auto, kubeadm, k3s, rke2 or other"
  for each in "${VALUES[@]}"; do
    [[ -f $each && -r $each ]] || wrong "-f $each: is not there, or may not be read" "name a YAML file"
  done
  for each in "${SETS[@]}"; do
    [[ ! $each =~ authKey|apiKey ]] ||
      wrong "--set: a key would stand in the process list" "give the auth key with -K, an API key in a file with -f"
    [[ $each == ?*=* ]] || wrong "--set $each: is not KEY=VALUE" "write it like config.logLevel=debug"
  done
}

check_name() { # option, value, longest
  [[ $2 =~ ^[a-z0-9]([-a-z0-9]*[a-z0-9])?$ && ${#2} -le $3 ]] ||
    wrong "$1 $2: is no name that Kubernetes takes" "at most $3 small letters, digits and -, a letter or digit at both ends"
}

check_cidrs() { # option, value
  local each
  for each in ${2//,/ }; do
    cidr_bits "$each" >/dev/null || wrong "$1 $2: $each is no CIDR" "write one like 10.244.0.0/16"
    ! has_host_bits "$each" || wrong "$1 $2: $each has bits set beyond its prefix length" "write its first address"
  done
}

read_key() {
  local from_environment=$HEADCNI_AUTH_KEY
  unset HEADCNI_AUTH_KEY # what is started here does not need it
  [[ -z $KEY || -z $KEY_FILE ]] || wrong "both -k and -K are given" "say -K alone: it keeps the key out of the process list"
  [[ -n $KEY$KEY_FILE ]] || KEY=$from_environment
  if [[ -n $KEY_FILE ]]; then
    [[ $KEY_FILE != - ]] || KEY_FILE=/dev/stdin
    [[ -r $KEY_FILE && ! -d $KEY_FILE ]] || wrong "-K $KEY_FILE: is not there, or may not be read" "name the file of the key"
    KEY=$(<"$KEY_FILE")
    [[ -n $KEY ]] || wrong "-K $KEY_FILE: is empty" "put the key there: headscale preauthkeys create --reusable"
  fi
  [[ ! $KEY =~ [^!-~] && ${#KEY} -le 4096 ]] ||
    wrong "the key holds blanks, line breaks or characters that no key has" "copy it anew, alone and on one line"
}

# --- what is done

install() {
  say looking
  check_tools
  check_api
  check_rights
  check_nodes
  check_other_plugins
  check_namespace
  check_headscale
  stop_if_problems
  write_values
  render
  check_beside
  check_ranges
  stop_if_problems
  if [[ -n $DRY_RUN ]]; then
    print_manifest
    say "nothing was changed: this was a dry run"
    return
  fi
  say "installing release $RELEASE in namespace $NAMESPACE"
  if ! helm_upgrade --create-namespace; then
    cat "$WORK/error" >&2
    echo "error: Helm failed; helm -n $NAMESPACE history $RELEASE shows what is there now" >&2
    exit 3
  fi
  ok "DaemonSet $DAEMONSET"
  local late=''
  if ((WAIT)); then
    wait_for_nodes || late=yes
  else
    look_at_nodes || true
  fi
  print_nodes
  [[ -n $late ]] || return 0
  echo "error: not every node was ready within $WAIT s" >&2
  echo "  cure: kubectl -n $NAMESPACE get pods -o wide; of a node that lags: kubectl -n $NAMESPACE exec POD -- headcni doctor" >&2
  exit 4
}

elsewhere() { # by labels that the chart gives
  local where daemon=app.kubernetes.io/name=headcni,app.kubernetes.io/component=daemon
  local form='{{range .items}}-n {{.metadata.namespace}} --release {{index .metadata.labels "app.kubernetes.io/instance"}}{{"\n"}}{{end}}'
  kubectl get daemonsets --all-namespaces --selector "$daemon" -o go-template="$form" >"$WORK/elsewhere" 2>/dev/null || true
  while read -r where; do note "HeadCNI is here: $where"; done <"$WORK/elsewhere"
}

annotate() {
  kubectl annotate daemonset --namespace "$NAMESPACE" --selector "app.kubernetes.io/name=headcni,app.kubernetes.io/instance=$RELEASE" "$@"
}

forget_purge() { # it was for this time only, and Helm's hook may not have come so far as to take it back
  [[ -n $PURGE ]] || return 0
  annotate headcni.io/purge- >/dev/null || note "the annotation headcni.io/purge may still be on the DaemonSet"
}

uninstall() {
  local selector="app.kubernetes.io/name=headcni,app.kubernetes.io/instance=$RELEASE,app.kubernetes.io/component=hooks"
  say looking
  check_tools
  check_api
  stop_if_problems
  if ! is_installed; then
    say "there is no release $RELEASE in namespace $NAMESPACE: nothing to do"
    elsewhere
    return
  fi
  if [[ -n $PURGE ]]; then
    trap 'forget_purge; rm -rf "$WORK"' EXIT
    annotate --overwrite headcni.io/purge=true >/dev/null
  fi
  say "taking release $RELEASE away; first every node is put back as it was"
  if ! helm uninstall "$RELEASE" --namespace "$NAMESPACE" --timeout "$((WAIT > 300 ? WAIT : 300))s" >"$WORK/helm" 2>"$WORK/error"; then
    cat "$WORK/error" >&2
    kubectl logs --namespace "$NAMESPACE" --selector "$selector" --tail 20 >&2 || true
    echo "error: Helm failed. Where pods still have their network from HeadCNI, --purge cuts them off" >&2
    exit 3
  fi
  PURGE='' # its DaemonSet is gone
  say "done; until another network is there, nodes are not ready"
}

read_command_line "$@"
check_command_line
read_key
[[ -z $DRY_RUN ]] || exec 3>&2 # standard output is for the manifests
umask 077
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP
if [[ -n $UNINSTALL ]]; then uninstall; else install; fi
