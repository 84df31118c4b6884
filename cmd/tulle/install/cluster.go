package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/klog/v2"

	"github.com/tulle-mesh/tulle/cmd/tulle/fault"
	"github.com/tulle-mesh/tulle/cmd/tulle/kube"
)

// selector is what the chart labels all of its objects with.
const selector = "app.kubernetes.io/name=tulle,app.kubernetes.io/part-of=tulle"

// Names of the chart's objects that the commands look for.
const (
	controller         = "tulle-controller"
	annotationLayout   = "tulle.dev/layout"
	labelVersion       = "app.kubernetes.io/version"
	annotationHelm     = "meta.helm.sh/release-name"
	annotationArgo     = "argocd.argoproj.io/tracking-id"
	labelArgo          = "argocd.argoproj.io/instance"
	labelFluxKustomize = "kustomize.toolkit.fluxcd.io/name"
	labelFluxHelm      = "helm.toolkit.fluxcd.io/name"
)

// kinds are what an installation can be made of, in the order in which it is taken away: first what is asked about
// pods, then what runs, then what that needs.
func kinds() []schema.GroupVersionKind {
	admission := func(kind string) schema.GroupVersionKind {
		return schema.GroupVersionKind{Group: "admissionregistration.k8s.io", Version: "v1", Kind: kind}
	}
	rbac := func(kind string) schema.GroupVersionKind {
		return schema.GroupVersionKind{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: kind}
	}
	core := func(kind string) schema.GroupVersionKind { return schema.GroupVersionKind{Version: "v1", Kind: kind} }
	return []schema.GroupVersionKind{
		admission("MutatingWebhookConfiguration"), admission("MutatingAdmissionPolicyBinding"), admission("MutatingAdmissionPolicy"),
		admission("ValidatingAdmissionPolicyBinding"), admission("ValidatingAdmissionPolicy"),
		{Group: "apps", Version: "v1", Kind: "DaemonSet"}, {Group: "apps", Version: "v1", Kind: "Deployment"},
		{Group: "policy", Version: "v1", Kind: "PodDisruptionBudget"},
		core("Service"), core("ConfigMap"),
		{Group: "cert-manager.io", Version: "v1", Kind: "Certificate"}, {Group: "cert-manager.io", Version: "v1", Kind: "Issuer"},
		rbac("RoleBinding"), rbac("Role"), rbac("ClusterRoleBinding"), rbac("ClusterRole"), core("ServiceAccount"),
		{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"}, core("Namespace"),
	}
}

// reach is the cluster that an installation is in.
type reach struct {
	kube    kubernetes.Interface
	dynamic dynamic.Interface
	mapper  meta.RESTMapper
	host    string
}

func connect(flags kube.Flags) (*reach, error) {
	config, err := flags.Config()
	if err != nil {
		return nil, fault.Failed(fmt.Errorf("find the cluster: %w", err), kube.Hint)
	}
	config.Timeout = kube.AnswerTime
	config.QPS, config.Burst = 50, 100
	// Warnings are about what the chart holds, which nobody here can change.
	config.WarningHandlerWithContext = rest.NoWarnings{}
	// What client-go logs comes back as an error as well.
	klog.SetSlogLogger(slog.New(slog.DiscardHandler))
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fault.Failed(fmt.Errorf("read the kubeconfig: %w", err), "")
	}
	objects, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fault.Failed(fmt.Errorf("read the kubeconfig: %w", err), "")
	}
	return &reach{
		kube: client, dynamic: objects, host: config.Host,
		mapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery())),
	}, nil
}

// of returns the client for objects of one kind. The error is meta.IsNoMatchError if the cluster has no such kind.
func (r *reach) of(kind schema.GroupVersionKind, namespace string) (dynamic.ResourceInterface, error) {
	m, err := r.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		return nil, err
	}
	if m.Scope.Name() == meta.RESTScopeNameNamespace {
		return r.dynamic.Resource(m.Resource).Namespace(namespace), nil
	}
	return r.dynamic.Resource(m.Resource), nil
}

// refused words an error of the API server, with what can be done about it.
func (r *reach) refused(what string, err error) error {
	var hint string
	var inner *url.Error
	switch {
	case meta.IsNoMatchError(err) && strings.Contains(err.Error(), "cert-manager.io"):
		hint = "install cert-manager first: https://cert-manager.io/docs/installation/"
	case apierrors.IsForbidden(err):
		hint = "this needs the rights of a cluster administrator; --context names another user"
	case errors.As(err, &inner):
		err = fmt.Errorf("the API server at %s does not answer: %w", r.host, inner.Err)
		hint = kube.Hint
	}
	return fault.Failed(fmt.Errorf("%s: %w", what, err), hint)
}

// installed returns the objects of the installation in a namespace, in the order of kinds. The error says where Tulle is
// if it is elsewhere.
func (r *reach) installed(ctx context.Context, namespace string) ([]unstructured.Unstructured, error) {
	var all []unstructured.Unstructured
	for _, kind := range kinds() {
		of, err := r.of(kind, "")
		if meta.IsNoMatchError(err) {
			continue
		}
		if err == nil {
			var list *unstructured.UnstructuredList
			if list, err = of.List(ctx, metav1.ListOptions{LabelSelector: selector}); err == nil {
				all = append(all, list.Items...)
				continue
			}
		}
		if apierrors.IsNotFound(err) {
			continue
		}
		return nil, r.refused("look for what is installed", err)
	}
	home := map[string]bool{namespace: true}
	for _, o := range all {
		if o.GetKind() == "Namespace" {
			home[o.GetName()] = true
		}
		if o.GetKind() == "Deployment" && o.GetName() == controller && o.GetNamespace() != namespace {
			return nil, fault.Failed(fmt.Errorf("no Tulle is installed in the namespace %s; it is in %s", namespace, o.GetNamespace()),
				"add -n "+o.GetNamespace())
		}
	}
	return slices.DeleteFunc(all, func(o unstructured.Unstructured) bool { return !ours(&o, home) }), nil
}

// configMapRole is the name of the Role and the RoleBinding by which the controller reads ConfigMaps with rules, in the
// namespaces of those.
const configMapRole = "tulle-configmaps"

// ours reports whether an object with the chart's labels is part of an installation with these namespaces.
func ours(o *unstructured.Unstructured, home map[string]bool) bool {
	role := o.GetName() == configMapRole && (o.GetKind() == "Role" || o.GetKind() == "RoleBinding")
	return o.GetNamespace() == "" || home[o.GetNamespace()] || role
}

// keeper says who looks after an installation, and how that is told to do something; empty for nobody.
func keeper(objects []unstructured.Unstructured, verb string) (who, hint string) {
	for _, o := range objects {
		annotations, labels := o.GetAnnotations(), o.GetLabels()
		switch {
		case labels[labelFluxHelm] != "" || labels[labelFluxKustomize] != "":
			return "Flux", "change it where Flux reads it, or Flux undoes what is done here"
		case annotations[annotationArgo] != "" || labels[labelArgo] != "":
			return "Argo CD", "change it where Argo CD reads it, or Argo CD undoes what is done here"
		case annotations[annotationHelm] != "":
			release := annotations[annotationHelm]
			if verb == "uninstall" {
				return "Helm", fmt.Sprintf("run helm uninstall %s -n %s", release, annotations["meta.helm.sh/release-namespace"])
			}
			return "Helm", fmt.Sprintf("run helm upgrade %s CHART -n %s, with your values", release, annotations["meta.helm.sh/release-namespace"])
		}
	}
	return "", ""
}

// decode reads rendered YAML.
func decode(text []byte) ([]unstructured.Unstructured, error) {
	var all []unstructured.Unstructured
	for d := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096); ; {
		var o unstructured.Unstructured
		switch err := d.Decode(&o.Object); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, fmt.Errorf("read the objects: %w", err)
		case len(o.Object) > 0:
			all = append(all, o)
		}
	}
}

// name is how an object is spoken of, as kubectl does: deployment.apps/tulle-controller.
func name(o *unstructured.Unstructured) string {
	kind := o.GroupVersionKind()
	n := strings.ToLower(kind.Kind)
	if kind.Group != "" {
		n += "." + kind.Group
	}
	return n + "/" + o.GetName()
}

// where names an object with its namespace.
func where(o *unstructured.Unstructured) string {
	if ns := o.GetNamespace(); ns != "" {
		return name(o) + " in namespace " + ns
	}
	return name(o)
}

type identity struct {
	kind            schema.GroupKind
	namespace, name string
}

func identify(o *unstructured.Unstructured) identity {
	return identity{o.GroupVersionKind().GroupKind(), o.GetNamespace(), o.GetName()}
}
