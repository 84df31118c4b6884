package sidecar

import (
	"context"
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
	// through the API server and the namer to here. The pod's application can
	// call before that.
	newsAfter = 3 * time.Second
	// strangerFor is how long a caller is remembered as no pod of this node.
	strangerFor = time.Minute
)

// node knows the pods of a host proxy's node, by IP. It is safe for concurrent
// use.
type node struct {
	pods     *watch.Value[[]api.Pod]
	self     string // the node's own address
	fallback string // the namespace of callers that are no pods

	index atomic.Pointer[map[string]string] // IP to namespace

	mu        sync.Mutex
	strangers map[string]time.Time // until when
}

// newNode returns a node that follows pods. Call run before use.
func newNode(pods *watch.Value[[]api.Pod], self, fallback string) *node {
	n := &node{pods: pods, self: self, fallback: fallback, strangers: map[string]time.Time{}}
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
	n.mu.Lock() // orders concurrent changes
	defer n.mu.Unlock()
	index := map[string]string{}
	for _, p := range n.pods.Get() {
		index[p.IP] = p.Namespace
	}
	n.index.Store(&index)
}

// namespace returns the namespace in which a caller's names resolve: that of
// the pod at the IP, else the fallback. A caller that looks like a pod nobody
// has told of yet is waited for.
func (n *node) namespace(ctx context.Context, ip string) string {
	if ns, ok := (*n.index.Load())[ip]; ok {
		return ns
	}
	if n.stranger(ip) || !n.likelyPod(ip) {
		return n.fallback
	}
	if ns, ok := n.await(ctx, ip, newsAfter); ok {
		return ns
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	for ip, until := range n.strangers {
		if now.After(until) {
			delete(n.strangers, ip)
		}
	}
	n.strangers[ip] = now.Add(strangerFor)
	return n.fallback
}

// ours reports whether the IP is of a pod of the node, and waits for one that
// is not known yet: the caller may have heard of it first.
func (n *node) ours(ctx context.Context, ip string) bool {
	if _, ok := (*n.index.Load())[ip]; ok {
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

func (n *node) stranger(ip string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	until, ok := n.strangers[ip]
	return ok && time.Now().Before(until)
}

// likelyPod guesses whether an unknown caller is a pod of this node that is too
// young to be known. Callers on the node itself and those that arrive from
// other machines are not, and are not made to wait.
func (n *node) likelyPod(ip string) bool {
	a, err := netip.ParseAddr(ip)
	if err != nil || a.IsLoopback() || ip == n.self {
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
