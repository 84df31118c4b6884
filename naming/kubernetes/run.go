package kubernetes

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	core "k8s.io/client-go/informers/core/v1"
	discovery "k8s.io/client-go/informers/discovery/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Run feeds the Index from an API server until ctx ends, and then returns nil with every
// goroutine gone. Lost watches are taken up again for ever, with the last picture standing
// meanwhile. It needs list and watch of services, pods and endpointslices.discovery.k8s.io
// in all namespaces, and is called once.
func (x *Index) Run(ctx context.Context, client kubernetes.Interface) error {
	// No resync: the Index is computed from the objects and has nothing to repair.
	const resync = 0
	var delivered []cache.DoneChecker
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, feed := range []struct {
		informer cache.SharedIndexInformer
		apply    func(object any)
		remove   func(namespace, name string)
	}{
		{
			core.NewServiceInformer(client, metav1.NamespaceAll, resync, nil),
			func(o any) { x.ApplyService(o.(*corev1.Service)) },
			x.DeleteService,
		},
		{
			discovery.NewEndpointSliceInformer(client, metav1.NamespaceAll, resync, nil),
			func(o any) { x.ApplySlice(o.(*discoveryv1.EndpointSlice)) },
			x.DeleteSlice,
		},
		{
			core.NewPodInformer(client, metav1.NamespaceAll, resync, nil),
			func(o any) { x.ApplyPod(o.(*corev1.Pod)) },
			x.DeletePod,
		},
	} {
		if err := feed.informer.SetTransform(trim); err != nil {
			return fmt.Errorf("set up informer: %w", err)
		}
		if err := feed.informer.SetWatchErrorHandlerWithContext(x.watchFailed); err != nil {
			return fmt.Errorf("set up informer: %w", err)
		}
		registration, err := feed.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    feed.apply,
			UpdateFunc: func(_, o any) { feed.apply(o) },
			DeleteFunc: func(o any) {
				// o may be a tombstone, which at least has the key.
				if k, err := cache.DeletionHandlingObjectToName(o); err == nil {
					feed.remove(k.Namespace, k.Name)
				}
			},
		})
		if err != nil {
			return fmt.Errorf("set up informer: %w", err)
		}
		delivered = append(delivered, registration.HasSyncedChecker())
		running.Go(func() { feed.informer.RunWithContext(ctx) })
	}
	if cache.WaitFor(ctx, "", delivered...) {
		x.MarkSynced()
		x.cfg.Logger.Info("cluster read")
	}
	<-ctx.Done()
	return nil
}

func (x *Index) watchFailed(ctx context.Context, _ *cache.Reflector, err error) {
	if ctx.Err() == nil {
		x.cfg.Logger.Warn("watch of the cluster failed, trying again", "error", err)
	}
}

// trim drops what the Index does not read before an informer stores the object: of a Pod,
// that is nearly all. What is no object of ours is left as it is.
func trim(object any) (any, error) {
	switch o := object.(type) {
	case *corev1.Service:
		kept := &corev1.Service{ObjectMeta: trimMeta(o.ObjectMeta)}
		for _, p := range o.Spec.Ports {
			kept.Spec.Ports = append(kept.Spec.Ports, corev1.ServicePort{Name: p.Name, Protocol: p.Protocol, Port: p.Port, TargetPort: p.TargetPort})
		}
		return kept, nil
	case *discoveryv1.EndpointSlice:
		kept := &discoveryv1.EndpointSlice{ObjectMeta: trimMeta(o.ObjectMeta, discoveryv1.LabelServiceName), AddressType: o.AddressType, Ports: o.Ports}
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
