package sidecar

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming/namer/api"
)

const (
	// newsAfter is how long the word of a new pod may take from its kubelet
	// through the API server and the namer to here: the pod's application can
	// call before that, and the stream from the namer may just be coming back.
	newsAfter = 10 * time.Second
	// listAfter is how long the first list of pods may take.
	listAfter = 10 * time.Second
)

// node knows the pods of a host proxy's node, by IP. It is safe for concurrent
// use.
type node struct {
	pods     *watch.Value[[]api.Pod]
	self     string // the node's own address
	fallback string // the namespace of callers that are no pods

	index atomic.Pointer[map[string]string] // IP to namespace
	mu    sync.Mutex                        // orders changes of index
}

// newNode returns a node that follows pods. Call run before use.
func newNode(pods *watch.Value[[]api.Pod], self, fallback string) *node {
	n := &node{pods: pods, self: self, fallback: fallback}
	n.reindex()
	return n
}

// run keeps the index current until ctx ends.
func (n *node) run(ctx context.Context) error {
	stop := n.pods.Notify(n.reindex)
	defer stop()
	n.reindex()
	<-ctx.Done()
	return nil
}

func (n *node) reindex() {
	n.mu.Lock()
	defer n.mu.Unlock()
	index := map[string]string{}
	for _, p := range n.pods.Get() {
		index[p.IP] = p.Namespace
	}
	n.index.Store(&index)
}

// namespace returns the namespace in which a caller's names resolve: that of
// the pod at the IP, or the fallback for a caller that is no pod of this node. A
// caller that looks like a pod nobody has told of yet is waited for. It fails
// rather than guess: a wrong namespace is somebody else's service.
func (n *node) namespace(ctx context.Context, ip string) (string, error) {
	if ns, ok := (*n.index.Load())[ip]; ok {
		return ns, nil
	}
	if a, err := netip.ParseAddr(ip); err != nil || a.IsLoopback() || ip == n.self {
		return n.fallback, nil
	}
	if n.pods.Get() == nil {
		ctx, cancel := context.WithTimeout(ctx, listAfter)
		defer cancel()
		if _, err := n.pods.Wait(ctx, func(pods []api.Pod) bool { return pods != nil }); err != nil {
			return "", errors.New("this proxy has not been told yet which pods are on its node")
		}
	}
	if !n.likelyPod(ip) {
		return n.fallback, nil
	}
	if ns, ok := n.await(ctx, ip, newsAfter); ok {
		return ns, nil
	}
	return "", fmt.Errorf("the caller's address %s looks like that of a pod of this node, but the controller knows no such pod", ip)
}

// knows reports whether the IP is of a pod of the node, as far as is known now.
func (n *node) knows(ip string) bool {
	_, ok := (*n.index.Load())[ip]
	return ok
}

// ours reports whether the IP is of a pod of the node, and waits for one that
// is not known yet: the caller may have heard of it first.
func (n *node) ours(ctx context.Context, ip string) bool {
	if n.knows(ip) {
		return true
	}
	_, ok := n.await(ctx, ip, time.Second)
	return ok
}

// await waits for news of a pod at the IP.
func (n *node) await(ctx context.Context, ip string, patience time.Duration) (namespace string, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := n.pods.Wait(ctx, func(pods []api.Pod) bool {
		for _, p := range pods {
			if p.IP == ip {
				namespace = p.Namespace
				return true
			}
		}
		return false
	})
	return namespace, err == nil
}

// likelyPod guesses whether an unknown caller is a pod of this node that is too
// young to be known. Callers on the node itself and those that arrive from
// other machines are not, and are not made to wait.
func (n *node) likelyPod(ip string) bool {
	a, err := netip.ParseAddr(ip)
	if err != nil {
		return false
	}
	// A pod of this node is reached through an interface of its own network,
	// whose address differs from the node's; some networks give it none, and
	// there the neighbours tell.
	if local, err := localAddress(ip); err == nil && local != n.self {
		return local != ip
	}
	bits := 24
	if a.Is6() {
		bits = 64
	}
	near, err := a.Prefix(bits)
	if err != nil {
		return false
	}
	for known := range *n.index.Load() {
		if k, err := netip.ParseAddr(known); err == nil && near.Contains(k) {
			return true
		}
	}
	return false
}

// localAddress returns the address from which this machine would send to ip.
// Nothing is sent.
func localAddress(ip string) (string, error) {
	c, err := net.Dial("udp", net.JoinHostPort(ip, "9"))
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	host, _, err := net.SplitHostPort(c.LocalAddr().String())
	return host, err
}
