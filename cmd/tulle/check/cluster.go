package check

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"

	"github.com/tulle-mesh/tulle/cmd/tulle/fault"
	"github.com/tulle-mesh/tulle/cmd/tulle/kube"
)

// oldest is the first Kubernetes with sidecars that end by themselves, which the chart asks for.
const oldest = "1.29"

// server looks at the API server. The error is that it does not answer.
func (c *checker) server(ctx context.Context, host string) error {
	info, err := c.client.Discovery().ServerVersion()
	if err != nil {
		if inner := (*url.Error)(nil); errors.As(err, &inner) {
			err = inner.Err
		}
		return fault.Failed(fmt.Errorf("the API server at %s does not answer: %w", host, err), kube.Hint)
	}
	v, err := version.ParseGeneric(info.GitVersion)
	switch {
	case err != nil:
		c.skip("the version of the API server", err)
	case v.LessThan(version.MustParseGeneric(oldest)):
		c.find(Finding{Code: OldServer, Message: fmt.Sprintf("the API server is Kubernetes %s, and Tulle needs %s or later", info.GitVersion, oldest), Fix: "# upgrade the cluster"})
	default:
		c.pass("the API server is Kubernetes %s", info.GitVersion)
	}
	return ctx.Err()
}

// certManager looks for the kinds of cert-manager that the chart and the controller use.
func (c *checker) certManager() {
	const group = "cert-manager.io/v1"
	missing := map[string]bool{"certificates": true, "issuers": true, "certificaterequests": true}
	list, err := c.client.Discovery().ServerResourcesForGroupVersion(group)
	if err != nil && !apierrors.IsNotFound(err) {
		c.skip("cert-manager", err)
		return
	}
	if err == nil {
		for _, r := range list.APIResources {
			delete(missing, r.Name)
		}
	}
	if len(missing) > 0 {
		c.find(Finding{Code: NoCertManager, Message: "cert-manager is not installed: the API server does not know its kinds in " + group,
			Fix: "helm install cert-manager oci://quay.io/jetstack/charts/cert-manager --namespace cert-manager --create-namespace --set crds.enabled=true"})
		return
	}
	c.pass("cert-manager's kinds are there (%s)", group)
}

// rights asks whether this user may install.
func (c *checker) rights(ctx context.Context) {
	var not []string
	for _, a := range []authorizationv1.ResourceAttributes{
		{Resource: "namespaces"}, {Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions"},
		{Group: "admissionregistration.k8s.io", Resource: "mutatingwebhookconfigurations"},
		{Group: "rbac.authorization.k8s.io", Resource: "clusterroles"}, {Group: "rbac.authorization.k8s.io", Resource: "clusterrolebindings"},
		{Group: "rbac.authorization.k8s.io", Resource: "roles", Namespace: c.mesh}, {Group: "apps", Resource: "deployments", Namespace: c.mesh},
		{Group: "apps", Resource: "daemonsets", Namespace: c.mesh}, {Group: "cert-manager.io", Resource: "certificates", Namespace: c.mesh},
	} {
		for _, verb := range []string{"create", "patch"} {
			a.Verb = verb
			review, err := c.client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx,
				&authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &a}}, metav1.CreateOptions{})
			if err != nil {
				c.skip("your rights", err)
				return
			}
			if !review.Status.Allowed {
				not = append(not, verb+" "+a.Resource)
			}
		}
	}
	if len(not) > 0 {
		c.find(Finding{Code: NoRight, Message: "you may not install Tulle: you may not " + some(not), Fix: "kubectl auth can-i --list\n# use a user with the ClusterRole cluster-admin: --context names another one"})
		return
	}
	c.pass("you may install Tulle")
}

const labelEnforce = "pod-security.kubernetes.io/enforce"

// podSecurity looks whether the mesh's namespace lets host proxies have the host's network.
func (c *checker) podSecurity(ctx context.Context) {
	ns, err := c.client.CoreV1().Namespaces().Get(ctx, c.mesh, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return // the installation makes it as it must be
	}
	if err != nil {
		c.skip("namespace "+c.mesh, err)
		return
	}
	if level := ns.Labels[labelEnforce]; level != "" && level != "privileged" {
		c.find(Finding{Code: PodSecurity, Object: "namespace/" + c.mesh,
			Message: fmt.Sprintf("Pod Security enforces %q here, under which no pod has the host's network, as host proxies must", level),
			Fix:     fmt.Sprintf("kubectl label namespace %s %s=privileged --overwrite", c.mesh, labelEnforce)})
		return
	}
	c.pass("Pod Security lets host proxies run in namespace %s", c.mesh)
}

// kubectl is a command with its namespace.
func kubectl(namespace string, words ...string) string {
	command := "kubectl " + words[0]
	if namespace != "" {
		command += " -n " + namespace
	}
	return command + " " + strings.Join(words[1:], " ")
}

// upgrade is the command that brings back what is missing. VALUES is the file that only the user knows.
func (c *checker) upgrade(flags string) string {
	command := "tulle upgrade"
	if c.mesh != "tulle" {
		command += " -n " + c.mesh
	}
	return command + " --values VALUES" + flags
}
