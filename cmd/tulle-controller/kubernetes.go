package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/cert-manager/cert-manager/pkg/client/clientset/versioned"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tulle-mesh/tulle/naming/kubernetes/access"
	"github.com/tulle-mesh/tulle/webhook"
)

// Rates of calls to the API server. A certificate costs four: a review, and a request made, watched and deleted.
// client-go's five a second would make a cluster of hundreds of pods wait minutes for its certificates.
const (
	callsPerSecond = 100
	callsBurst     = 200
)

// clients are the ways to the API server.
type clients struct {
	core        kubernetes.Interface
	access      kubernetes.Interface // for questions of strangers, who must not use up the others' rate
	metadata    metadata.Interface
	dynamic     dynamic.Interface
	certmanager versioned.Interface
	rest        *rest.Config // for a part that makes its own
}

// connect makes clients from a kubeconfig file, or from the pod's service account if there is none.
func connect(kubeconfig string) (clients, error) {
	var config *rest.Config
	var err error
	if kubeconfig != "" {
		config, err = clientcmd.BuildConfigFromFlags("", kubeconfig)
	} else {
		config, err = rest.InClusterConfig()
	}
	if err != nil {
		return clients{}, fmt.Errorf("configure the Kubernetes client: %w", err)
	}
	config.UserAgent = "tulle-controller"
	config.QPS, config.Burst = callsPerSecond, callsBurst
	c := clients{rest: config}
	var errs [5]error
	// Pods and slices come by the thousand; protobuf halves what it costs to read them.
	protobuf := rest.CopyConfig(config)
	protobuf.ContentType = runtime.ContentTypeProtobuf
	protobuf.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	c.core, errs[0] = kubernetes.NewForConfig(protobuf)
	c.access, errs[3] = access.NewClient(protobuf)
	c.metadata, errs[1] = metadata.NewForConfig(config)
	c.dynamic, errs[4] = dynamic.NewForConfig(config)
	c.certmanager, errs[2] = versioned.NewForConfig(config)
	if err := errors.Join(errs[:]...); err != nil {
		return clients{}, fmt.Errorf("make the Kubernetes clients: %w", err)
	}
	return c, nil
}

// namespaces answers for the injector from memory. Only names, labels and a few annotations are kept.
type namespaces struct {
	client   metadata.Getter
	factory  metadatainformer.SharedInformerFactory
	informer cache.SharedIndexInformer
	lister   cache.GenericLister
}

func newNamespaces(client metadata.Interface) *namespaces {
	resource := corev1.SchemeGroupVersion.WithResource("namespaces")
	factory := metadatainformer.NewSharedInformerFactoryWithOptions(client, 0, metadatainformer.WithTransform(onlyRead))
	generic := factory.ForResource(resource)
	return &namespaces{client.Resource(resource), factory, generic.Informer(), generic.Lister()}
}

// onlyRead drops what the injector does not read; the annotations alone can be the whole object again.
func onlyRead(object any) (any, error) {
	if o, ok := object.(metav1.Object); ok {
		o.SetManagedFields(nil)
		o.SetAnnotations(readAnnotations(o))
	}
	return object, nil
}

// readAnnotations returns the annotations of a namespace that the injector reads; nil for most.
func readAnnotations(o metav1.Object) map[string]string {
	var kept map[string]string
	for _, key := range webhook.NamespaceAnnotations() {
		if v, ok := o.GetAnnotations()[key]; ok {
			if kept == nil {
				kept = map[string]string{}
			}
			kept[key] = v
		}
	}
	return kept
}

// Run keeps the namespaces up to date until ctx is done.
func (n *namespaces) Run(ctx context.Context) error {
	n.factory.Start(ctx.Done())
	<-ctx.Done()
	n.factory.Shutdown()
	return nil
}

// HasSynced reports whether every namespace has been read once.
func (n *namespaces) HasSynced() bool { return n.informer.HasSynced() }

// Find is a webhook.NamespaceFunc. A namespace that is not in memory is asked for: its first pod may be
// quicker than the news of it. So is one that has not joined as far as memory knows: the API server, which calls for
// those alone that have, may have heard of its label first, and to believe memory would let the pod escape.
func (n *namespaces) Find(ctx context.Context, name string) (webhook.Namespace, error) {
	object, err := n.lister.Get(name)
	if apierrors.IsNotFound(err) || err == nil && !joined(object) {
		object, err = n.client.Get(ctx, name, metav1.GetOptions{})
	}
	if err != nil {
		return webhook.Namespace{}, err
	}
	found, ok := object.(metav1.Object)
	if !ok {
		return webhook.Namespace{}, fmt.Errorf("the metadata of namespace %s is a %T", name, object)
	}
	return webhook.Namespace{Name: name, Labels: found.GetLabels(), Annotations: readAnnotations(found)}, nil
}

// joined reports whether a namespace is one whose pods are injected.
func joined(object runtime.Object) bool {
	o, ok := object.(metav1.Object)
	if !ok {
		return false
	}
	label := o.GetLabels()[webhook.LabelInject]
	return label == webhook.NamespaceEnabled || label == webhook.NamespaceBestEffort
}
