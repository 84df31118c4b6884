package kubernetes

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"

	"github.com/tulle-mesh/tulle/internal/feed"
)

// running selects the pods that have not ended. In clusters with many jobs the others are many, and the Index
// knows nothing of them anyway.
const running = "status.phase!=Succeeded,status.phase!=Failed"

// Run feeds the Index from an API server until ctx ends, and then returns nil with every
// goroutine gone. Lost watches are taken up again for ever, with the last picture standing
// meanwhile. It needs list and watch of services, pods and endpointslices.discovery.k8s.io
// in all namespaces, and is called once.
func (x *Index) Run(ctx context.Context, client kubernetes.Interface) error {
	services := client.CoreV1().Services(metav1.NamespaceAll)
	endpoints := client.DiscoveryV1().EndpointSlices(metav1.NamespaceAll)
	pods := client.CoreV1().Pods(metav1.NamespaceAll)
	feeds := []feed.Feed{
		{
			Kind: "services", Example: &corev1.Service{},
			List: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return services.List(ctx, o) }, Watch: services.Watch,
			Apply:  func(o runtime.Object) { x.ApplyService(o.(*corev1.Service)) },
			Remove: x.DeleteService, Known: x.knownServices,
		},
		{
			Kind: "endpointslices", Example: &discoveryv1.EndpointSlice{},
			List: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return endpoints.List(ctx, o) }, Watch: endpoints.Watch,
			Apply:  func(o runtime.Object) { x.ApplySlice(o.(*discoveryv1.EndpointSlice)) },
			Remove: x.DeleteSlice, Known: x.knownSlices,
		},
		{
			Kind: "pods", Example: &corev1.Pod{}, Selector: running,
			List: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return pods.List(ctx, o) }, Watch: pods.Watch,
			Apply:  func(o runtime.Object) { x.ApplyPod(o.(*corev1.Pod)) },
			Remove: x.DeletePod, Known: x.knownPods,
		},
	}
	var left atomic.Int32
	left.Store(int32(len(feeds)))
	var group sync.WaitGroup
	for _, f := range feeds {
		f.Client, f.Trim, f.Logger = client, trim, x.cfg.Logger
		f.Read = sync.OnceFunc(func() {
			if left.Add(-1) == 0 {
				x.MarkSynced()
				x.cfg.Logger.Info("cluster read")
			}
		})
		group.Go(func() { f.Run(ctx) })
	}
	group.Wait()
	return nil
}

func (x *Index) knownServices() []key {
	x.mu.Lock()
	defer x.mu.Unlock()
	var all []key
	for k, s := range x.services {
		if s.says != nil {
			all = append(all, k)
		}
	}
	return all
}

func (x *Index) knownSlices() []key {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Collect(maps.Keys(x.slices))
}

func (x *Index) knownPods() []key {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Collect(maps.Keys(x.pods))
}

// trim drops what the Index does not read of an object that waits for the others of a list: of a Pod,
// that is nearly all. What is no object of ours is left as it is.
func trim(object any) (any, error) {
	switch o := object.(type) {
	case *corev1.Service:
		kept := &corev1.Service{ObjectMeta: trimMeta(o.ObjectMeta), Status: o.Status}
		kept.Labels = o.Labels
		for _, p := range o.Spec.Ports {
			kept.Spec.Ports = append(kept.Spec.Ports, corev1.ServicePort{Name: p.Name, Protocol: p.Protocol, Port: p.Port, TargetPort: p.TargetPort})
		}
		return kept, nil
	case *discoveryv1.EndpointSlice:
		kept := &discoveryv1.EndpointSlice{ObjectMeta: trimMeta(o.ObjectMeta), AddressType: o.AddressType, Ports: o.Ports}
		kept.Labels = o.Labels
		for _, e := range o.Endpoints {
			k := discoveryv1.Endpoint{Addresses: e.Addresses, Conditions: e.Conditions, NodeName: e.NodeName}
			if r := e.TargetRef; r != nil {
				k.TargetRef = &corev1.ObjectReference{Kind: r.Kind, Namespace: r.Namespace, Name: r.Name, UID: r.UID}
			}
			kept.Endpoints = append(kept.Endpoints, k)
		}
		return kept, nil
	case *corev1.Pod:
		return &corev1.Pod{
			ObjectMeta: trimMeta(o.ObjectMeta, labelMode, annotationIncomingPort),
			Spec: corev1.PodSpec{
				NodeName:           o.Spec.NodeName,
				ServiceAccountName: o.Spec.ServiceAccountName,
				HostNetwork:        o.Spec.HostNetwork,
				Containers:         trimContainers(o.Spec.Containers),
				InitContainers:     trimContainers(o.Spec.InitContainers),
			},
			Status: corev1.PodStatus{
				Phase:  o.Status.Phase,
				PodIP:  o.Status.PodIP,
				PodIPs: o.Status.PodIPs,
				HostIP: o.Status.HostIP, HostIPs: o.Status.HostIPs,
			},
		}, nil
	}
	return object, nil
}

// trimMeta keeps what names an object, and the labels and annotations given.
func trimMeta(m metav1.ObjectMeta, keep ...string) metav1.ObjectMeta {
	kept := metav1.ObjectMeta{Namespace: m.Namespace, Name: m.Name, UID: m.UID, ResourceVersion: m.ResourceVersion, CreationTimestamp: m.CreationTimestamp}
	for _, k := range keep {
		if v, ok := m.Labels[k]; ok {
			metav1.SetMetaDataLabel(&kept, k, v)
		}
		if v, ok := m.Annotations[k]; ok {
			metav1.SetMetaDataAnnotation(&kept, k, v)
		}
	}
	return kept
}

func trimContainers(containers []corev1.Container) []corev1.Container {
	if hasProxy(containers) {
		return []corev1.Container{{Name: proxyContainer}}
	}
	return nil
}
