package check

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/manifests"
	"github.com/tulle-mesh/tulle/webhook"
	"github.com/tulle-mesh/tulle/webhook/settings"
)

// Names of the chart's objects.
const (
	controllerName = "tulle-controller"
	hostName       = "tulle-host"
	settingsKey    = "controller.yaml"
	labelVersion   = "app.kubernetes.io/version"
	selectHosts    = "app.kubernetes.io/name=tulle,app.kubernetes.io/component=host"
	selectAll      = "app.kubernetes.io/name=tulle,app.kubernetes.io/part-of=tulle"
)

// installed looks for an installation and reads its settings. It returns false if there is nothing to go on with.
func (c *checker) installed(ctx context.Context) bool {
	object, err := c.client.CoreV1().ConfigMaps(c.mesh).Get(ctx, controllerName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		fix := "tulle check --pre\ntulle install | kubectl apply -f -"
		if list, err := c.client.AppsV1().Deployments("").List(ctx, metav1.ListOptions{LabelSelector: selectAll}); err == nil && len(list.Items) > 0 {
			fix = "tulle check --mesh-namespace " + list.Items[0].Namespace
		}
		c.find(Finding{Code: NotInstalled, Object: "configmap/" + controllerName, Namespace: c.mesh, Message: "Tulle is not installed: this object is not there", Fix: fix})
		return false
	}
	if err != nil {
		c.skip("the installation in namespace "+c.mesh, err)
		return false
	}
	parsed, err := settings.Parse(settingsKey, []byte(object.Data[settingsKey]))
	if err != nil {
		c.find(Finding{Code: OtherVersion, Object: "configmap/" + controllerName, Namespace: c.mesh,
			Message: fmt.Sprintf("this program cannot read the settings: %v", err), Fix: "# use the tulle of the version that is installed, or correct the settings and run\n" + c.upgrade("")})
		return false
	}
	c.settings = parsed
	if version, own := object.Labels[labelVersion], ownVersion(); version != own {
		c.find(Finding{Code: OtherVersion, Object: "configmap/" + controllerName, Namespace: c.mesh,
			Message: fmt.Sprintf("version %s is installed, and this program is of version %s", version, own), Fix: "# use the tulle of that version, or\n" + c.upgrade(" --dry-run")})
	} else {
		c.pass("version %s is installed in namespace %s, which is that of this program", version, c.mesh)
	}
	return true
}

// ownVersion is that of the chart in this program; empty if it cannot be rendered, which a test rules out.
func ownVersion() string {
	text, err := manifests.Render("tulle", nil)
	if err != nil {
		return ""
	}
	for _, doc := range split(text) {
		var o corev1.ConfigMap
		if yaml.Unmarshal(doc, &o) == nil && o.Kind == "ConfigMap" && o.Name == controllerName {
			return o.Labels[labelVersion]
		}
	}
	return ""
}

// controller looks at the controller's pods.
func (c *checker) controller(ctx context.Context) {
	d, err := c.client.AppsV1().Deployments(c.mesh).Get(ctx, controllerName, metav1.GetOptions{})
	object := "deployment/" + controllerName
	if apierrors.IsNotFound(err) {
		c.find(Finding{Code: ControllerDown, Object: object, Namespace: c.mesh, Message: "it is not there", Fix: c.upgrade("")})
		return
	}
	if err != nil {
		c.skip("the controller", err)
		return
	}
	want := int32(1)
	if d.Spec.Replicas != nil {
		want = *d.Spec.Replicas
	}
	s := d.Status
	switch {
	case want == 0:
		c.find(Finding{Code: ControllerDown, Object: object, Namespace: c.mesh, Message: "it is scaled to no replica: nothing is injected and no proxy gets a certificate", Fix: kubectl(c.mesh, "scale", object, "--replicas=2")})
	case s.ObservedGeneration < d.Generation || s.UpdatedReplicas < want || s.AvailableReplicas < want:
		c.find(Finding{Code: ControllerDown, Object: object, Namespace: c.mesh,
			Message: fmt.Sprintf("of %s, %d run what it says and %d are ready", count(int(want), "replica"), s.UpdatedReplicas, s.AvailableReplicas),
			Fix:     kubectl(c.mesh, "get", "pods -l app.kubernetes.io/component=controller") + "\n" + kubectl(c.mesh, "logs", object)})
	default:
		c.pass("the controller is ready, %s", count(int(want), "replica"))
	}
}

// hostProxies looks at the proxies of the nodes, and for nodes without one whose pods need it.
func (c *checker) hostProxies(ctx context.Context) {
	object := "daemonset/" + hostName
	d, err := c.client.AppsV1().DaemonSets(c.mesh).Get(ctx, hostName, metav1.GetOptions{})
	enabled := err == nil
	if err != nil && !apierrors.IsNotFound(err) {
		c.skip("the host proxies", err)
		return
	}
	list, err := c.client.CoreV1().Pods(c.mesh).List(ctx, metav1.ListOptions{LabelSelector: selectHosts})
	if err != nil {
		c.skip("the pods of the host proxies", err)
		return
	}
	c.hosts = list.Items
	if enabled {
		c.hostSet = d
	}
	has := map[string]bool{}
	var down []string
	for _, p := range list.Items {
		switch {
		case p.DeletionTimestamp != nil || p.Spec.NodeName == "":
		case ready(&p):
			has[p.Spec.NodeName] = true
		default:
			down = append(down, p.Spec.NodeName)
		}
	}
	down = slices.DeleteFunc(down, func(node string) bool { return has[node] })
	slices.Sort(down)
	switch {
	case !enabled:
	case len(down) > 0:
		c.find(Finding{Code: HostDown, Object: object, Namespace: c.mesh, Message: fmt.Sprintf("its proxy is not ready on %s: %s", count(len(down), "node"), some(down)),
			Fix: kubectl(c.mesh, "get", "pods -l app.kubernetes.io/component=host -o wide") + "\n" + kubectl(c.mesh, "logs", object)})
	case d.Status.NumberAvailable < d.Status.DesiredNumberScheduled || d.Status.ObservedGeneration < d.Generation:
		c.find(Finding{Code: HostDown, Object: object, Namespace: c.mesh, Message: fmt.Sprintf("of %s, %d have a proxy that is ready", count(int(d.Status.DesiredNumberScheduled), "node"), d.Status.NumberAvailable),
			Fix: kubectl(c.mesh, "describe", object)})
	default:
		c.pass("the host proxies are ready, on %s", count(len(has), "node"))
	}
	c.hostless(ctx, has, down)
}

// hostless looks for pods in host mode on nodes that have no proxy for them.
func (c *checker) hostless(ctx context.Context, has map[string]bool, down []string) {
	pods := map[string]int{}
	for o := (metav1.ListOptions{LabelSelector: webhook.LabelMode + "=" + string(webhook.ModeHost), Limit: 500}); ; {
		list, err := c.client.CoreV1().Pods("").List(ctx, o)
		if err != nil {
			c.skip("pods in host mode", err)
			return
		}
		for _, p := range list.Items {
			if p.Spec.NodeName != "" && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
				pods[p.Spec.NodeName]++
			}
		}
		if o.Continue = list.Continue; o.Continue == "" {
			break
		}
	}
	var without []string
	n := 0
	for node, k := range pods {
		if !has[node] && !slices.Contains(down, node) {
			without = append(without, node)
			n += k
		}
	}
	if len(without) > 0 {
		slices.Sort(without)
		c.find(Finding{Code: NoHost, Message: fmt.Sprintf("%s in host mode are on nodes without a host proxy, and cannot send: %s", count(n, "pod"), some(without)),
			Fix: "# set host.enabled, host.nodeSelector and host.tolerations so that these nodes have a proxy, and run\n" + c.upgrade("")})
	}
}

func ready(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// split takes YAML documents apart.
func split(text []byte) [][]byte { return bytes.Split(text, []byte("\n---\n")) }
