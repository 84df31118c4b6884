package main

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/tulle-mesh/tulle/internal/feed"
	"github.com/tulle-mesh/tulle/webhook/settings"
)

// nodes decides what the injector's settings leave to the cluster. Of each node it keeps what counts, two bits.
type nodes struct {
	log    *slog.Logger
	synced chan struct{} // closed when every node has been read once
	facts  atomic.Pointer[settings.Facts]

	mu  sync.Mutex
	all map[string]settings.Node
}

func newNodes(log *slog.Logger) *nodes {
	n := &nodes{log: log, synced: make(chan struct{}), all: map[string]settings.Node{}}
	n.facts.Store(&settings.Facts{})
	return n
}

// Facts returns what the nodes decide as of now. Before they have been read it is the common case.
func (n *nodes) Facts() settings.Facts { return *n.facts.Load() }

// Run follows the nodes until ctx is done.
func (n *nodes) Run(ctx context.Context, client kubernetes.Interface) error {
	all := client.CoreV1().Nodes()
	first := sync.OnceFunc(func() {
		f := n.Facts()
		n.log.Info("nodes read", "hostAddress", f.HostAddress, "nativeSidecars", !f.Classic)
		close(n.synced)
	})
	feed.Feed{
		Kind: "nodes", Example: &corev1.Node{}, Client: client, Logger: n.log, Trim: trimNode,
		List:  func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return all.List(ctx, o) },
		Watch: all.Watch,
		Apply: func(o runtime.Object) { n.apply(o.(*corev1.Node)) },
		Remove: func(_, name string) {
			n.update(func() { delete(n.all, name) })
		},
		Known: n.known,
		Read: func() {
			n.update(func() {})
			first()
		},
	}.Run(ctx)
	return nil
}

func (n *nodes) apply(o *corev1.Node) {
	counted, ok := settings.NodeOf(o)
	n.update(func() {
		if ok {
			n.all[o.Name] = counted
		} else {
			delete(n.all, o.Name)
		}
	})
}

// update changes the nodes, and what they decide once all of them are known.
func (n *nodes) update(change func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change()
	now, was := settings.Survey(maps.Values(n.all)), n.Facts()
	if now == was {
		return
	}
	n.facts.Store(&now)
	if isClosed(n.synced) {
		n.log.Info("the nodes have changed what pods get from now on; those that run stay as they are",
			"hostAddress", now.HostAddress, "wasHostAddress", was.HostAddress, "nativeSidecars", !now.Classic, "hadNativeSidecars", !was.Classic)
	}
}

func (n *nodes) known() []types.NamespacedName {
	n.mu.Lock()
	defer n.mu.Unlock()
	var names []types.NamespacedName
	for name := range n.all {
		names = append(names, types.NamespacedName{Name: name})
	}
	return names
}

// trimNode drops the lists of images and the like of a node that waits for the others.
func trimNode(object any) (any, error) {
	o, ok := object.(*corev1.Node)
	if !ok {
		return object, nil
	}
	kept := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: o.Name, UID: o.UID, ResourceVersion: o.ResourceVersion}}
	if os, ok := o.Labels[corev1.LabelOSStable]; ok {
		kept.Labels = map[string]string{corev1.LabelOSStable: os}
	}
	kept.Status.Addresses = o.Status.Addresses
	kept.Status.NodeInfo.KubeletVersion, kept.Status.NodeInfo.OperatingSystem = o.Status.NodeInfo.KubeletVersion, o.Status.NodeInfo.OperatingSystem
	return kept, nil
}
