#!/bin/sh
# First process of a box (see box.py): makes the inside, says so, and lives as long as its standard input is open.
# Paths inside are the real default ones; nothing of the machine is written, because /etc, /opt and /var are
# overlays that end with the box.
set -e
work=$1

mount -t proc proc /proc
mount -t sysfs sysfs /sys

mount -t tmpfs tmpfs /sys/fs/cgroup
if [ -e "$work/cgroup2" ]; then
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
else
    while IFS=: read -r _ hierarchy _; do
        case $hierarchy in
            '') continue ;;  # the unified one, which holds no controllers then
            name=*) options=none,$hierarchy ;;
            *) options=$hierarchy ;;
        esac
        mkdir "/sys/fs/cgroup/${hierarchy#name=}"
        mount -t cgroup -o "$options" cgroup "/sys/fs/cgroup/${hierarchy#name=}"
    done < /proc/self/cgroup
fi

inherited=$(while read -r _ _ _ _ point _; do echo "$point"; done < /proc/self/mountinfo)
for point in $inherited; do  # a namespace that the machine names in /run/netns would live as long as we do
    case $point in /run/*) umount --lazy "$point" 2> /dev/null || true ;; esac  # gone with one above it
done
mount -t tmpfs tmpfs /run
for folder in etc opt var; do
    mkdir -p "/run/overlay/$folder/upper" "/run/overlay/$folder/work"
    options="lowerdir=/$folder,upperdir=/run/overlay/$folder/upper,workdir=/run/overlay/$folder/work"
    mount -t overlay -o "$options" overlay "/$folder"
done
for folder in /var/lib/containerd /var/lib/kubelet /var/lib/headcni /var/lib/cni /var/log/pods /var/log/containers \
    /etc/cni/net.d /opt/cni/bin /etc/kubernetes/manifests; do
    mkdir -p "$folder" "$work$folder"
    mount --bind "$work$folder" "$folder"  # a real file system, seen from outside too
done
mkdir -p /run/netns

# The kubelet sets these for the whole machine, unless they are set already.
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    mkdir -p "$work/sysctl"
    pretended="$work/sysctl/$(echo "${setting%=*}" | tr / .)"
    echo "${setting#*=}" > "$pretended"
    mount --bind "$pretended" "/proc/sys/${setting%=*}"
done
mount --make-rshared /

echo box > /proc/sys/kernel/hostname
ip link set lo up
ip link add node0 type bridge
ip address add 192.168.66.1/24 dev node0
ip link set node0 up
ip route add default via 192.168.66.2

exec 3<&0
cat <&3 > /dev/null &
echo ready  # from here on nothing is started here: box.py moves what there is to another control group
wait $!  # and bury whoever dies meanwhile
