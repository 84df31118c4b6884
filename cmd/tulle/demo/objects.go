package demo

import (
	"bytes"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/manifests"
	"github.com/tulle-mesh/tulle/webhook"
)

// objects is the example manifest, sorted out.
type objects struct {
	namespaces  map[string]webhook.Namespace
	services    []*corev1.Service
	deployments []*appsv1.Deployment

	hostNamespace, sidecarNamespace string
}

func exampleObjects() (*objects, error) {
	o := &objects{namespaces: map[string]webhook.Namespace{}}
	for i, doc := range bytes.Split(manifests.HelloWorld(), []byte("\n---\n")) {
		var kind struct{ Kind string }
		if err := yaml.Unmarshal(doc, &kind); err != nil {
			return nil, fmt.Errorf("hello-world.yaml, document %d: %w", i+1, err)
		}
		var err error
		switch kind.Kind {
		case "":
		case "Namespace":
			var ns corev1.Namespace
			err = yaml.UnmarshalStrict(doc, &ns)
			o.namespaces[ns.Name] = webhook.Namespace{Name: ns.Name, Labels: ns.Labels, Annotations: ns.Annotations}
			switch ns.Labels[webhook.LabelMode] {
			case string(webhook.ModeHost):
				o.hostNamespace = ns.Name
			case string(webhook.ModeSidecar):
				o.sidecarNamespace = ns.Name
			}
		case "Service":
			s := &corev1.Service{}
			err = yaml.UnmarshalStrict(doc, s)
			o.services = append(o.services, s)
		case "Deployment":
			d := &appsv1.Deployment{}
			err = yaml.UnmarshalStrict(doc, d)
			o.deployments = append(o.deployments, d)
		default:
			err = fmt.Errorf("the demo has no %s", kind.Kind)
		}
		if err != nil {
			return nil, fmt.Errorf("hello-world.yaml, document %d: %w", i+1, err)
		}
	}
	if o.hostNamespace == "" || o.sidecarNamespace == "" {
		return nil, fmt.Errorf("hello-world.yaml needs one namespace with the label %s=host and one with %s=sidecar", webhook.LabelMode, webhook.LabelMode)
	}
	return o, nil
}
