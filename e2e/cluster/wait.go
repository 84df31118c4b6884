package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// pollInterval is how often waiting looks again.
const pollInterval = 100 * time.Millisecond

// await calls ready until it returns nil. It ends early, with an error that has the last answer, when
// ctx ends or a machine of the cluster does.
func (c *Cluster) await(ctx context.Context, what string, ready func(context.Context) error) error {
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		if gone := c.running(); gone != nil {
			return fmt.Errorf("wait for %s: %w", what, gone)
		}
		if ended := sleep(ctx, pollInterval); ended != nil {
			return fmt.Errorf("wait for %s: %w; last: %w", what, ended, err)
		}
	}
}

// sleep waits, or fails when ctx ends first.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Healthy asks once whether the cluster does all that Up promises.
func (c *Cluster) Healthy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, check := range []func(context.Context) error{
		func(context.Context) error { return c.running() },
		c.checkAPI, c.checkNodes, c.checkDNS, c.checkCertManager,
	} {
		if err := check(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) awaitAPI(ctx context.Context) error {
	return c.await(ctx, "the API server", c.checkAPI)
}

func (c *Cluster) checkAPI(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := c.client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
	return err
}

// AwaitNodes waits until every node is ready.
func (c *Cluster) AwaitNodes(ctx context.Context) error {
	return c.await(ctx, "the nodes", c.checkNodes)
}

// awaitNodes waits until every node has registered, notes its pod range, and waits until it is ready.
func (c *Cluster) awaitNodes(ctx context.Context) error {
	for _, n := range nodes {
		patch := fmt.Appendf(nil, `{"spec":{"podCIDR":%q,"podCIDRs":[%q]}}`, n.Pods, n.Pods)
		err := c.await(ctx, "node "+n.Name+" to register", func(ctx context.Context) error {
			_, err := c.client.CoreV1().Nodes().Patch(ctx, n.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
			return err
		})
		if err != nil {
			return err
		}
	}
	return c.AwaitNodes(ctx)
}

func (c *Cluster) checkNodes(ctx context.Context) error {
	list, err := c.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, n := range nodes {
		i := slices.IndexFunc(list.Items, func(item corev1.Node) bool { return item.Name == n.Name })
		if i < 0 {
			return fmt.Errorf("node %s has not registered", n.Name)
		}
		if reason := nodeNotReady(list.Items[i]); reason != "" {
			return fmt.Errorf("node %s is not ready: %s", n.Name, reason)
		}
	}
	return nil
}

// nodeNotReady says why nothing can run on a node, or nothing if it can.
func nodeNotReady(n corev1.Node) string {
	for _, t := range n.Spec.Taints {
		if strings.HasPrefix(t.Key, "node.kubernetes.io/") {
			return "it has the taint " + t.Key
		}
	}
	for _, condition := range n.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			if condition.Status == corev1.ConditionTrue {
				return ""
			}
			return condition.Message
		}
	}
	return "it has not reported yet"
}

func (c *Cluster) awaitDNS(ctx context.Context) error {
	return c.await(ctx, "cluster DNS", c.checkDNS)
}

// checkDNS asks for the API's Service by way of the DNS Service, which shows kube-proxy at work too.
func (c *Cluster) checkDNS(ctx context.Context) error {
	if err := c.checkDeployment(ctx, "kube-system", "coredns"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, netip.AddrPortFrom(dnsService, 53).String())
	}}
	name := "kubernetes.default.svc." + clusterDomain + "."
	addrs, err := resolver.LookupNetIP(ctx, "ip4", name)
	if err != nil {
		return err
	}
	if !slices.Contains(addrs, apiService) {
		return fmt.Errorf("%s resolves to %v, want %s", name, addrs, apiService)
	}
	return nil
}

func (c *Cluster) awaitCertManager(ctx context.Context) error {
	return c.await(ctx, "cert-manager", c.checkCertManager)
}

// checkCertManager validates an issuer without keeping it, which takes the webhook and the CA bundle that the
// injector gave the API server.
func (c *Cluster) checkCertManager(ctx context.Context) error {
	for _, part := range certManagerParts {
		if err := c.checkDeployment(ctx, "cert-manager", part.Name); err != nil {
			return err
		}
	}
	const issuer = `{"apiVersion":"cert-manager.io/v1","kind":"Issuer","metadata":{"name":"probe"},"spec":{"selfSigned":{}}}`
	return c.client.CoreV1().RESTClient().Post().
		AbsPath("/apis/cert-manager.io/v1/namespaces/cert-manager/issuers").
		Param("dryRun", metav1.DryRunAll).
		SetHeader("Content-Type", "application/json").
		Body([]byte(issuer)).
		Do(ctx).Error()
}

func (c *Cluster) checkDeployment(ctx context.Context, namespace, name string) error {
	d, err := c.client.AppsV1().Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, condition := range d.Status.Conditions {
		if condition.Type == appsv1.DeploymentAvailable && condition.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return errors.New("deployment " + namespace + "/" + name + " is not available")
}
