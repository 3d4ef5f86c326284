# What is typed on a machine of another architecture, from the tarball's `install` to packets: on each
# dataplane two pods that may talk and one that may not. What the test wants to see begins with `seen: `.
set -e
fail() {
    echo "failed: $*"
    tail -n 40 /tmp/*.log
    exit 1
}
soon() { # a command that will succeed
    tries=0
    until "$@" >/tmp/soon 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 120 ] || fail "$*: $(cat /tmp/soon)"
        sleep 0.5
    done
}
seen() { echo "seen: $*"; }
plugin() { # a command of CNI, a pod, its network, the arguments
    CNI_COMMAND=$1 CNI_CONTAINERID=$2 CNI_NETNS=/run/netns/$2 CNI_IFNAME=eth0 CNI_ARGS=$4 \
        CNI_PATH=/etc/rkt/net.d /etc/rkt/net.d/calico <"/etc/rkt/net.d/20-$3.conf"
}
ready() { calico-agent status | grep '^State *ready'; }
reaches() { ip netns exec "$1" ping -q -c 2 -W 2 "$2" >/dev/null; }

seen "$(uname -m)"
/opt/calico-agent-*/install --rkt
PATH=/opt/bin:$PATH
calico-agent --version
bird --version 2>&1

ip link add eth0 type veth peer name wire
ip link set wire up
ip link set eth0 up
ip addr add 172.18.18.101/24 dev eth0
ETCD_UNSUPPORTED_ARCH=arm64 etcd --data-dir=/tmp/etcd >/tmp/etcd.log 2>&1 &
mkdir -p /etc/calico /etc/rkt/net.d
cat >/etc/calico/agent.toml <<END
[datastore]
endpoints = ["http://127.0.0.1:2379"]
[node]
ip = "172.18.18.101/24"
END
for network in shop visitors; do
    cat >/etc/rkt/net.d/20-$network.conf <<END
{"name": "$network", "type": "calico", "ipam": {"type": "calico-ipam", "subnet": "10.65.0.0/16"},
 "policy_setup_timeout_seconds": 120}
END
done

for dataplane in nftables iptables-nft iptables-legacy; do
    export FELIX_DATAPLANE=$dataplane
    calico-agent run >/tmp/agent.log 2>&1 &
    agent=$!
    soon test -e /var/lib/calico/bird/bird.cfg
    bird -f -c /var/lib/calico/bird/bird.cfg -s /run/calico/bird.ctl >/tmp/bird.log 2>&1 &
    bird=$!
    soon ready

    number=0
    for pod in web1 web2 guest; do
        network=shop
        [ $pod != guest ] || network=visitors
        number=$((number + 1))
        ip netns add $pod
        plugin ADD $pod $network IP=10.65.0.$number >/tmp/plugin.log 2>&1 || fail "ADD of $pod"
    done
    soon ready
    ! reaches guest 10.65.0.2 || fail "$dataplane: the guest reaches a shop"
    reaches web1 10.65.0.2 || fail "$dataplane: a shop does not reach the other one"
    seen "$dataplane: passes and is dropped"
    calico-agent status | grep "^felix  *in force, $dataplane" || fail "$dataplane is not in force"
    plan=$(calico-agent plan) || fail "$dataplane: plan"
    [ -z "$plan" ] || fail "$dataplane: $plan"

    for pod in web1 web2 guest; do
        network=shop
        [ $pod != guest ] || network=visitors
        plugin DEL $pod $network >/tmp/plugin.log 2>&1 || fail "DEL of $pod"
        ip netns del $pod
    done
    kill $agent $bird
    wait $agent || fail "$dataplane: the agent ended with $?"
    wait $bird || :
    calico-agent reset >/tmp/reset.log 2>&1 || fail "$dataplane: reset"
    left=$({ iptables-nft-save; iptables-legacy-save; nft list ruleset; ipset list -n; } 2>/dev/null | grep -c cali || :)
    [ "$left" = 0 ] || fail "$dataplane: $left lines are left"
    seen "$dataplane: nothing is left"
done
