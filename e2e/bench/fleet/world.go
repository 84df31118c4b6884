//go:build linux

package fleet

import (
	"context"
	"fmt"
	"strconv"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"golang.org/x/sync/errgroup"
)

const (
	appNamespace  = "shop"  // of all services and pods
	meshNamespace = "tulle" // of the controller, and of the proxies whose token we show
	account       = "default"
	port          = 8080
	// writers is how many objects are created at a time; the API server takes no more from a few processors.
	writers = 32
)

// World is what is in the API server. Of each Service the pods are ready and spread over the nodes.
type World struct {
	Nodes, Services, PodsEach int
}

// Populate creates the objects as a cluster has them once everything runs, pods in both modes among them; there is
// no kubelet and no controller that would. The namespaces and the account of Token are created too.
func (w World) Populate(ctx context.Context, config *rest.Config) error {
	config = rest.CopyConfig(config)
	config.QPS = -1 // no limit: the server has its own
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	for _, name := range []string{appNamespace, meshNamespace} {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if _, err := client.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create namespace %s: %w", name, err)
		}
		sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}}
		if _, err := client.CoreV1().ServiceAccounts(name).Create(ctx, sa, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create service account %s/%s: %w", name, account, err)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(writers)
	for i := range w.Nodes {
		g.Go(func() error {
			node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName(i)}}
			if _, err := client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
				return fmt.Errorf("create node: %w", err)
			}
			return nil
		})
	}
	for i := range w.Services {
		g.Go(func() error { return w.service(ctx, client, i) })
	}
	return g.Wait()
}

func (w World) service(ctx context.Context, client kubernetes.Interface, i int) error {
	name := ServiceName(i)
	labels := map[string]string{"app": name}
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec: corev1.ServiceSpec{Selector: labels, ClusterIP: corev1.ClusterIPNone, Ports: []corev1.ServicePort{
			{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromString("http")},
		}},
	}
	if _, err := client.CoreV1().Services(appNamespace).Create(ctx, service, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create service: %w", err)
	}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: name + "-slice", Labels: map[string]string{
			discoveryv1.LabelServiceName: name, discoveryv1.LabelManagedBy: "endpointslice-controller.k8s.io", "app": name,
		}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(port)), Protocol: new(corev1.ProtocolTCP)}},
	}
	for j := range w.PodsEach {
		pod, err := w.pod(ctx, client, name, i*w.PodsEach+j)
		if err != nil {
			return err
		}
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{pod.Status.PodIP}, NodeName: &pod.Spec.NodeName,
			Conditions: discoveryv1.EndpointConditions{Ready: new(true), Serving: new(true), Terminating: new(false)},
			TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: appNamespace, Name: pod.Name, UID: pod.UID},
		})
	}
	if _, err := client.DiscoveryV1().EndpointSlices(appNamespace).Create(ctx, slice, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create slice: %w", err)
	}
	return nil
}

// pod creates the n-th pod, of the size of a real one that the injector has seen.
func (w World) pod(ctx context.Context, client kubernetes.Interface, app string, n int) (*corev1.Pod, error) {
	node, mode := n%w.Nodes, "host"
	if n%2 == 1 {
		mode = "sidecar"
	}
	pods := client.CoreV1().Pods(appNamespace)
	env := []corev1.EnvVar{
		{Name: "NODE_NAME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "spec.nodeName"}}},
		{Name: "http_proxy", Value: "http://$(TULLE_HOST_IP):4140"}, {Name: "no_proxy", Value: "localhost,127.0.0.1,::1,.svc,.cluster.local"},
	}
	for i := range 10 {
		env = append(env, corev1.EnvVar{Name: "SETTING_" + strconv.Itoa(i), Value: "some value of the application"})
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name:        fmt.Sprintf("%s-6d4cf56db6-%05d", app, n),
			Labels:      map[string]string{"app": app, "pod-template-hash": "6d4cf56db6", "tulle.dev/mode": mode},
			Annotations: map[string]string{"tulle.dev/injected": "true", "example.test/checksum": "3f786850e387550fdab836ed7e6dc881de23001b"},
		},
		Spec: corev1.PodSpec{
			NodeName: nodeName(node), ServiceAccountName: account,
			Containers: []corev1.Container{{
				Name: "app", Image: "registry.test/" + app + ":1.2.3", Env: env,
				Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: port}},
			}},
		},
	}
	if mode == "sidecar" {
		pod.Spec.InitContainers = []corev1.Container{{
			Name: "tulle-proxy", Image: "registry.test/tulle-proxy:1.2.3", RestartPolicy: new(corev1.ContainerRestartPolicyAlways), Env: env[:3],
		}}
	}
	created, err := pods.Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("create pod: %w", err)
	}
	ip := fmt.Sprintf("10.%d.%d.%d", 64+node/250, node%250, 2+n/w.Nodes%250)
	created.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}},
		HostIP: fmt.Sprintf("192.168.%d.%d", node/250, 1+node%250), HostIPs: []corev1.HostIP{{IP: fmt.Sprintf("192.168.%d.%d", node/250, 1+node%250)}},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}, {Type: corev1.ContainersReady, Status: corev1.ConditionTrue}},
	}
	if created, err = pods.UpdateStatus(ctx, created, metav1.UpdateOptions{}); err != nil {
		return nil, fmt.Errorf("set the status of a pod: %w", err)
	}
	return created, nil
}

func nodeName(i int) string { return fmt.Sprintf("node-%03d", i) }

// ServiceName is the name of the i-th Service.
func ServiceName(i int) string { return fmt.Sprintf("service-%04d", i) }

// ID is the name that a proxy follows for the i-th Service.
func ID(i int) string { return "/#/io.l5d.k8s/" + appNamespace + "/80/" + ServiceName(i) }

// Toggle takes the first endpoint of the i-th Service out of service, or puts it back, and returns when the API
// server has taken that.
func Toggle(ctx context.Context, client kubernetes.Interface, i int, ready bool) error {
	slices := client.DiscoveryV1().EndpointSlices(appNamespace)
	slice, err := slices.Get(ctx, ServiceName(i)+"-slice", metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read slice: %w", err)
	}
	slice.Endpoints[0].Conditions.Ready, slice.Endpoints[0].Conditions.Serving = &ready, &ready
	if _, err := slices.Update(ctx, slice, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("write slice: %w", err)
	}
	return nil
}

// Token returns a token as a proxy has one: for the controller, and bound to a pod, which it creates.
func Token(ctx context.Context, client kubernetes.Interface) (string, error) {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "proxy"},
		Spec:       corev1.PodSpec{ServiceAccountName: account, Containers: []corev1.Container{{Name: "proxy", Image: "registry.test/proxy"}}},
	}
	pod, err := client.CoreV1().Pods(meshNamespace).Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("create the proxy's pod: %w", err)
	}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		Audiences:      []string{"tulle.dev"},
		BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID},
	}}
	granted, err := client.CoreV1().ServiceAccounts(meshNamespace).CreateToken(ctx, account, request, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("ask for a token: %w", err)
	}
	return granted.Status.Token, nil
}
