package demo

import (
	"fmt"
	"net"
	"runtime"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"github.com/tulle-mesh/tulle/webhook"
)

// hosts is how many machines the demo plays.
const hosts = 2

// plan hands out addresses. Where the machine has many loopback addresses a
// host or a pod has one of its own, and all use the usual ports; where it has
// only 127.0.0.1 ports tell them apart.
type plan struct {
	single bool
	pods   [hosts]int // how many have been placed
}

func newPlan(single bool) *plan {
	if !single {
		ln, err := net.Listen("tcp", "127.0.1.1:0")
		if err != nil {
			single = true
		} else {
			_ = ln.Close()
		}
	}
	return &plan{single: single}
}

// ports of a proxy.
type ports struct{ outgoing, incoming, admin int }

var usual = ports{webhook.DefaultOutgoingPort, webhook.DefaultIncomingPort, webhook.DefaultAdminPort}

// namerAddress is where people reach the namer.
const namerAddress = "127.0.0.1:4180"

// host returns the address and the ports of a host's proxy; hosts count from 0.
func (p *plan) host(i int) (string, ports) {
	if p.single {
		return "127.0.0.1", ports{usual.outgoing + 1000*i, usual.incoming + 1000*i, usual.admin + 1000*i}
	}
	return fmt.Sprintf("127.0.%d.1", i+1), usual
}

// place is where a pod runs.
type place struct {
	host         int
	ip           string
	proxy        ports // of its sidecar
	app          int   // the port that stands for every port of the manifest's apps; 0 keeps them
	hostOutgoing int
	hostIncoming int
}

// pod places one more pod on a host.
func (p *plan) pod(host int) place {
	n := p.pods[host]
	p.pods[host]++
	_, hp := p.host(host)
	pl := place{host: host, ip: fmt.Sprintf("127.0.%d.%d", host+1, 10+n), proxy: usual, hostOutgoing: hp.outgoing, hostIncoming: hp.incoming}
	if p.single {
		base := 20000 + 1000*host + 10*n
		pl.ip, pl.app, pl.proxy = "127.0.0.1", base, ports{base + 1, base + 2, base + 3}
	}
	return pl
}

// fit writes into a pod, before its admission, what tells it apart from the
// others here, where pods have no networks of their own: the app listens on the
// pod's address and not on all of them, and on a machine with one address all
// ports are the pod's own.
func (pl place) fit(pod *corev1.Pod, sidecar bool) {
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		for j := range c.Ports {
			old := strconv.Itoa(int(c.Ports[j].ContainerPort))
			if pl.app != 0 {
				c.Ports[j].ContainerPort = int32(pl.app)
			}
			for k, arg := range c.Args {
				if arg == ":"+old {
					c.Args[k] = net.JoinHostPort(pl.ip, strconv.Itoa(int(c.Ports[j].ContainerPort)))
				}
			}
		}
	}
	if pl.app == 0 {
		return
	}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	proxy := pl.proxy
	if !sidecar {
		proxy = ports{outgoing: pl.hostOutgoing, incoming: pl.hostIncoming}
	}
	pod.Annotations[webhook.AnnotationOutgoingPort] = strconv.Itoa(proxy.outgoing)
	pod.Annotations[webhook.AnnotationIncomingPort] = strconv.Itoa(proxy.incoming)
	if sidecar {
		pod.Annotations[webhook.AnnotationAdminPort] = strconv.Itoa(proxy.admin)
	}
}

// free makes sure that the addresses that are known beforehand can be used.
func (p *plan) free() error {
	addresses := []string{namerAddress}
	for i := range hosts {
		ip, ports := p.host(i)
		for _, port := range []int{ports.outgoing, ports.incoming, ports.admin} {
			addresses = append(addresses, net.JoinHostPort(ip, strconv.Itoa(port)))
		}
	}
	for _, a := range addresses {
		if err := available(a); err != nil {
			return err
		}
	}
	return nil
}

// available fails if somebody else listens on the address.
func available(address string) error {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return taken(address)
	}
	return ln.Close()
}

func taken(address string) error {
	_, port, _ := net.SplitHostPort(address)
	look := "lsof -nP -iTCP:" + port + " -sTCP:LISTEN"
	if runtime.GOOS == "linux" {
		look = "ss -ltnp 'sport = :" + port + "'"
	}
	return &Error{fmt.Sprintf("the demo needs the address %s, which is taken", address),
		"another demo may still be running; see who listens with: " + look}
}
