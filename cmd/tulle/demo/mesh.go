package demo

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/tulle-mesh/tulle/certs/issuer"
	"github.com/tulle-mesh/tulle/webhook"
)

// patience is how long something that takes milliseconds is waited for.
const patience = 15 * time.Second

// proxy is a running tulle-proxy, as the walk sees it.
type proxy struct {
	name     string // "host 127.0.1.1" or "sidecar of hello-…"
	outgoing string
	admin    string
}

// pod is a pod of the manifest and its processes.
type pod struct {
	place place
	spec  *corev1.Pod // patched by the injector
	dir   string      // its volumes
	app   []*process
	ready bool
}

// mesh is everything that runs.
type mesh struct {
	cfg     Config
	dir     string
	plan    *plan
	objects *objects
	control *control

	pods         []*pod
	proxies      []proxy
	processes    []*process
	applications int
	deaths       chan error
}

// newMesh places the pods of the manifest on the hosts: the Deployments of a
// namespace in turn, so that hello and world run on different ones.
func newMesh(cfg Config, dir string, objects *objects) *mesh {
	m := &mesh{cfg: cfg, dir: dir, plan: newPlan(cfg.SingleAddress), objects: objects, deaths: make(chan error, 1)}
	turn := map[string]int{}
	for _, d := range objects.deployments {
		replicas := 1
		if d.Spec.Replicas != nil {
			replicas = int(*d.Spec.Replicas)
		}
		for i := range replicas {
			spec := &corev1.Pod{
				TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
				ObjectMeta: *d.Spec.Template.ObjectMeta.DeepCopy(),
				Spec:       *d.Spec.Template.Spec.DeepCopy(),
			}
			spec.Name, spec.Namespace = fmt.Sprintf("%s-%d", d.Name, i+1), d.Namespace
			if spec.Spec.ServiceAccountName == "" {
				spec.Spec.ServiceAccountName = "default" // the API server does so before admission
			}
			m.pods = append(m.pods, &pod{place: m.plan.pod(turn[d.Namespace] % hosts), spec: spec})
		}
		turn[d.Namespace]++
	}
	return m
}

func nodeName(host int) string { return "host-" + strconv.Itoa(host+1) }

// callers are the proxies that will ask for certificates.
func (m *mesh) callers() []issuer.Caller {
	var all []issuer.Caller
	for i := range hosts {
		all = append(all, issuer.Caller{Namespace: "tulle", ServiceAccount: "tulle-host", Pod: "tulle-" + nodeName(i), Node: nodeName(i)})
	}
	for _, p := range m.pods {
		all = append(all, issuer.Caller{Namespace: p.spec.Namespace, ServiceAccount: p.spec.Spec.ServiceAccountName, Pod: p.spec.Name, Node: nodeName(p.place.host)})
	}
	return all
}

func (m *mesh) start(ctx context.Context) error {
	m.control.index.MarkSynced() // there is nothing yet, and that is the whole of it
	for _, s := range m.objects.services {
		m.control.index.ApplyService(s)
	}
	for i := range hosts {
		if err := m.startHost(i); err != nil {
			return err
		}
	}
	for _, p := range m.pods {
		if err := m.startPod(ctx, p); err != nil {
			return err
		}
	}
	for _, p := range m.proxies {
		if err := m.await(ctx, "the "+p.name+" to be ready", func() bool { return isReady(p.admin) }); err != nil {
			return err
		}
	}
	for _, p := range m.pods {
		if err := m.awaitApp(ctx, p); err != nil {
			return err
		}
	}
	m.publish()
	return nil
}

// startHost starts a proxy in host mode, with the settings that the chart's
// DaemonSet gives it.
func (m *mesh) startHost(i int) error {
	ip, ports := m.plan.host(i)
	name := "tulle-" + nodeName(i)
	dir := filepath.Join(m.dir, name)
	if err := project(dir, "token", token("tulle", name)); err != nil {
		return err
	}
	address := func(port int) string { return net.JoinHostPort(ip, strconv.Itoa(port)) }
	p := proxy{name: "proxy of host " + ip, outgoing: address(ports.outgoing), admin: address(ports.admin)}
	if m.plan.single {
		p.name = "proxy of host " + nodeName(i)
	}
	m.proxies = append(m.proxies, p)
	return m.run(p.name, "tulle-proxy", nil, []string{
		"TULLE_MODE=host", "TULLE_NODE=" + nodeName(i), "TULLE_NAMESPACE=tulle", "TULLE_SERVICE_ACCOUNT=tulle-host",
		"TULLE_POD_NAME=" + name, "TULLE_POD_IP=" + ip, "TULLE_TRUST_DOMAIN=" + trustDomain,
		"TULLE_OUTGOING=" + p.outgoing, "TULLE_INCOMING=" + address(ports.incoming), "TULLE_ADMIN=" + p.admin,
		"TULLE_CONTROLLER=https://" + m.control.listeners.mesh.Addr().String(),
		"TULLE_CONTROLLER_CA=" + string(m.control.ca.Roots()),
		"TULLE_TOKEN_FILE=" + filepath.Join(dir, "token"),
		"TULLE_DEFAULT_NAMESPACE=" + m.objects.hostNamespace,
	}, nil)
}

// startPod admits a pod and starts what it then asks for.
func (m *mesh) startPod(ctx context.Context, p *pod) error {
	ns := m.objects.namespaces[p.spec.Namespace]
	p.place.fit(p.spec, ns.Labels[webhook.LabelMode] == string(webhook.ModeSidecar))
	patched, err := m.control.admit(ctx, p.spec)
	if err != nil {
		return err
	}
	hostIP, _ := m.plan.host(p.place.host)
	patched.Spec.NodeName = nodeName(p.place.host)
	patched.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, HostIP: hostIP, HostIPs: []corev1.HostIP{{IP: hostIP}},
		PodIP: p.place.ip, PodIPs: []corev1.PodIP{{IP: p.place.ip}},
	}
	p.spec = patched
	p.dir = filepath.Join(m.dir, patched.Namespace+"-"+patched.Name)
	m.control.index.ApplyPod(patched)
	for _, v := range patched.Spec.Volumes {
		if v.Projected == nil {
			return fmt.Errorf("pod %s has the volume %s, of a kind that the demo does not play", patched.Name, v.Name)
		}
		for _, source := range v.Projected.Sources {
			if source.ServiceAccountToken != nil {
				if err := project(filepath.Join(p.dir, v.Name), source.ServiceAccountToken.Path, token(patched.Namespace, patched.Name)); err != nil {
					return err
				}
			}
		}
	}
	for _, c := range slices.Concat(patched.Spec.InitContainers, patched.Spec.Containers) {
		process, err := m.startContainer(p, c)
		if err != nil {
			return err
		}
		if c.StartupProbe != nil && c.StartupProbe.HTTPGet != nil {
			admin := net.JoinHostPort(p.place.ip, c.StartupProbe.HTTPGet.Port.String())
			if err := m.await(ctx, "the "+process.name+" to be ready", func() bool { return isReady(admin) }); err != nil {
				return err
			}
		}
	}
	return nil
}

// startContainer starts a container as a process: its image names the program,
// its arguments and environment are expanded as the kubelet does.
func (m *mesh) startContainer(p *pod, c corev1.Container) (*process, error) {
	// The kubelet gives every container the address of the API server.
	env := map[string]string{"KUBERNETES_SERVICE_HOST": "10.96.0.1"}
	list := []string{"KUBERNETES_SERVICE_HOST=10.96.0.1"}
	for _, e := range c.Env {
		value := expand(e.Value, env)
		if e.ValueFrom != nil {
			field := ""
			if e.ValueFrom.FieldRef != nil {
				field = fieldOf(p.spec, e.ValueFrom.FieldRef.FieldPath)
			}
			if field == "" {
				return nil, fmt.Errorf("pod %s, container %s: the demo cannot play the source of %s", p.spec.Name, c.Name, e.Name)
			}
			value = field
		}
		// A process has no mounts of its own; the volume's directory stands in.
		for _, mount := range c.VolumeMounts {
			if rest, ok := strings.CutPrefix(value, mount.MountPath+"/"); ok {
				value = filepath.Join(p.dir, mount.Name, rest)
			}
		}
		env[e.Name] = value
		list = append(list, e.Name+"="+value)
	}
	var args []string
	for _, a := range c.Args {
		args = append(args, expand(a, env))
	}
	program := path(c.Image)
	name := c.Name + " of " + p.spec.Namespace + "/" + p.spec.Name
	if program == "tulle-proxy" {
		name = "sidecar of " + p.spec.Namespace + "/" + p.spec.Name
		m.proxies = append(m.proxies, proxy{name: name, outgoing: env["TULLE_OUTGOING"], admin: env["TULLE_ADMIN"]})
	} else {
		m.applications++
	}
	err := m.run(name, program, args, list, p)
	if err != nil {
		return nil, err
	}
	return m.processes[len(m.processes)-1], nil
}

// run starts a program of the demo; of may be nil.
func (m *mesh) run(name, program string, args, env []string, of *pod) error {
	if program == "tulle-proxy" {
		for _, e := range env {
			key, value, _ := strings.Cut(e, "=")
			if key == "TULLE_OUTGOING" || key == "TULLE_INCOMING" || key == "TULLE_ADMIN" {
				if err := available(value); err != nil {
					return err
				}
			}
		}
	}
	p, err := startProcess(m.dir, name, filepath.Join(m.cfg.Bin, program), args, env, func(err error) {
		select {
		case m.deaths <- err:
		default: // the first is told
		}
	})
	if err != nil {
		return err
	}
	m.processes = append(m.processes, p)
	if of != nil && program != "tulle-proxy" {
		of.app = append(of.app, p)
	}
	return nil
}

// died tells of a process that ended unexpectedly.
func (m *mesh) died() <-chan error { return m.deaths }

// stop ends everything. Applications are not asked first: they would wait for
// late requests, and nobody sends any.
func (m *mesh) stop() {
	for _, p := range m.pods {
		p.crash()
	}
	stopAll(m.processes)
}

// awaitApp waits until a pod's application accepts connections, as its
// readiness probe asks.
func (m *mesh) awaitApp(ctx context.Context, p *pod) error {
	address := net.JoinHostPort(p.place.ip, strconv.Itoa(int(p.spec.Spec.Containers[0].Ports[0].ContainerPort)))
	err := m.await(ctx, p.spec.Name+" to listen on "+address, func() bool {
		c, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	p.ready = err == nil
	return err
}

// publish tells the namer the endpoints of every Service, as the endpoint
// controller would.
func (m *mesh) publish() {
	for _, s := range m.objects.services {
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: s.Name}},
			AddressType: discoveryv1.AddressTypeIPv4,
		}
		// On a machine with one address every pod has ports of its own, and
		// ports belong to a slice: then a slice holds one endpoint.
		for i, p := range m.pods {
			if p.spec.Namespace != s.Namespace || !labels.SelectorFromSet(s.Spec.Selector).Matches(labels.Set(p.spec.Labels)) {
				continue
			}
			if m.plan.single {
				slice = slice.DeepCopy()
				slice.Name, slice.Endpoints, slice.Ports = fmt.Sprintf("%s-%d", s.Name, i), nil, nil
			}
			slice.Ports = slicePorts(s, p.spec)
			node, ready := p.spec.Spec.NodeName, p.ready
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{p.place.ip}, NodeName: &node, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
				TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: p.spec.Namespace, Name: p.spec.Name, UID: p.spec.UID},
			})
			if m.plan.single {
				m.control.index.ApplySlice(slice)
			}
		}
		if !m.plan.single {
			m.control.index.ApplySlice(slice)
		}
	}
}

func slicePorts(s *corev1.Service, p *corev1.Pod) []discoveryv1.EndpointPort {
	var all []discoveryv1.EndpointPort
	for _, port := range s.Spec.Ports {
		number := port.TargetPort.IntVal
		for _, c := range p.Spec.Containers {
			for _, cp := range c.Ports {
				// By name, or the demo's number in place of the manifest's.
				if cp.Name == port.TargetPort.StrVal || number != 0 {
					number = cp.ContainerPort
				}
			}
		}
		name, protocol := port.Name, corev1.ProtocolTCP
		all = append(all, discoveryv1.EndpointPort{Name: &name, Port: &number, Protocol: &protocol})
	}
	return all
}

// await polls a condition of another process, which can only be looked at.
func (m *mesh) await(ctx context.Context, what string, ok func() bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("waited %s for %s", patience, what))
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case err := <-m.deaths:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// crash kills the application of a pod, as if it had crashed.
func (p *pod) crash() {
	for _, a := range p.app {
		a.signal(syscall.SIGKILL)
		<-a.done
	}
	p.app = nil
	p.ready = false
}

// project writes a file of a volume.
func project(dir, name, content string) error {
	file := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(content), 0o600)
}

// path returns the program that an image stands for: the last part of its name.
func path(image string) string {
	image = image[strings.LastIndexByte(image, '/')+1:]
	name, _, _ := strings.Cut(image, ":")
	return name
}

func fieldOf(p *corev1.Pod, field string) string {
	switch field {
	case "metadata.name":
		return p.Name
	case "metadata.namespace":
		return p.Namespace
	case "spec.nodeName":
		return p.Spec.NodeName
	case "spec.serviceAccountName":
		return p.Spec.ServiceAccountName
	case "status.podIP":
		return p.Status.PodIP
	case "status.hostIP":
		return p.Status.HostIP
	}
	return ""
}

var reference = regexp.MustCompile(`\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)`)

// expand replaces $(NAME) by the variables set before, and leaves unknown ones
// as they are, like the kubelet.
func expand(s string, env map[string]string) string {
	return reference.ReplaceAllStringFunc(s, func(ref string) string {
		if v, ok := env[ref[2:len(ref)-1]]; ok {
			return v
		}
		return ref
	})
}
