package check

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tulle-mesh/tulle/webhook/settings"
)

// ended is the state of a pod whose container has ended with this message.
func ended(code int32, message string) corev1.PodStatus {
	phase := corev1.PodSucceeded
	if code != 0 {
		phase = corev1.PodFailed
	}
	return corev1.PodStatus{Phase: phase, ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{
		Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: "Error", Message: message}}}}}
}

func waiting(reason, message string) corev1.PodStatus {
	return corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{
		Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}}}}
}

// fleet is a cluster whose nodes n0, n1, ... have host proxies.
type fleet struct {
	*checker
	client *fake.Clientset
	made   []corev1.Pod
}

// newFleet plays the kubelets of as many nodes: status says what becomes of a pod on each of them.
func newFleet(t *testing.T, address string, status ...corev1.PodStatus) *fleet {
	t.Helper()
	set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: hostName, Namespace: "tulle", UID: "u"}}
	set.Status.DesiredNumberScheduled = int32(len(status))
	set.Spec.Template.Spec = corev1.PodSpec{
		ImagePullSecrets: []corev1.LocalObjectReference{{Name: "registry"}}, Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
		Containers: []corev1.Container{{Name: "tulle-proxy", Image: "example.com/tulle-proxy:1", SecurityContext: &corev1.SecurityContext{RunAsUser: new(int64(65532))}}},
	}
	f := &fleet{client: fake.NewClientset()}
	f.checker = &checker{report: &report{}, client: f.client, mesh: "tulle", hostSet: set, fromNodes: true}
	s := settings.Default()
	s.Inject.HostAddress = address
	f.config = s.Config(nobody())
	for i := range status {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n" + string(rune('0'+i))}}
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		if err := f.client.Tracker().Add(node); err != nil {
			t.Fatal(err)
		}
		f.hosts = append(f.hosts, corev1.Pod{ObjectMeta: metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("DaemonSet"))}},
			Spec: corev1.PodSpec{NodeName: node.Name}})
	}
	f.client.PrependReactor("create", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		p := a.(clienttesting.CreateAction).GetObject().(*corev1.Pod)
		node := p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields[0].Values[0]
		p.Status = status[node[1]-'0']
		f.made = append(f.made, *p) // a fake asks one reactor at a time
		return false, nil, nil
	})
	f.section("From the nodes")
	return f
}

// left are the pods that were not deleted.
func (f *fleet) left(t *testing.T) []corev1.Pod {
	t.Helper()
	list, err := f.client.CoreV1().Pods("").List(context.WithoutCancel(t.Context()), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

// What becomes of the pods is said with the nodes that they were on, and no pod stays.
func TestReach(t *testing.T) {
	refused := ended(1, "tulle-proxy: reach 10.0.0.7:4140: connection refused\n")
	for name, c := range map[string]struct {
		status []corev1.PodStatus
		codes  []Code
		says   []string
	}{
		"reached": {[]corev1.PodStatus{ended(0, ""), {Phase: corev1.PodSucceeded}}, nil, []string{"ok    on 2 nodes a pod reaches the proxy where pods are told it is, $(TULLE_HOST_IP):4140"}},
		"refused": {[]corev1.PodStatus{ended(0, ""), refused}, []Code{NobodyThere}, []string{"ok    on 1 node a pod", "on n1 pods do not reach their proxy at 10.0.0.7:4140: connection refused. Nothing listens"}},
		"two":     {[]corev1.PodStatus{refused, refused}, []Code{NobodyThere}, []string{"on n0, n1 pods do not reach their proxy (on n0 at 10.0.0.7:4140: connection refused)"}},
		"each": {[]corev1.PodStatus{ended(1, "tulle-proxy: reach node-1:4140: the name is not known: no such host"), ended(1, "tulle-proxy: reach [fd00::1]:4140: no answer within 5s"),
			ended(1, "tulle-proxy: reach 10.0.0.7:4140: no proxy of Tulle: something answers with status 404")},
			[]Code{NameUnknown, WayBarred, Foreign}, []string{"at node-1:4140: the name", "at [fd00::1]:4140: no answer", "status 404", "A NetworkPolicy", "let pods reach port 4140", "injector.hostAddress: auto"}},
		"image":       {[]corev1.PodStatus{waiting("ImagePullBackOff", "Back-off pulling image")}, nil, []string{"?     whether pods reach the proxy on n0: the pod cannot start: ImagePullBackOff: Back-off pulling image"}},
		"slow":        {[]corev1.PodStatus{waiting("ErrImagePull", "not found")}, nil, []string{"?     whether pods reach the proxy on n0: the pod had not started after 1m0s: ErrImagePull: not found"}},
		"no room":     {[]corev1.PodStatus{{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "Insufficient cpu"}}}}, nil, []string{"after 1m0s: Insufficient cpu"}},
		"no kubelet":  {[]corev1.PodStatus{{Phase: corev1.PodPending}}, nil, []string{"the pod had no result after 1m0s"}},
		"evicted":     {[]corev1.PodStatus{{Phase: corev1.PodFailed, Reason: "Evicted", Message: "low on memory"}}, nil, []string{"the pod cannot run: Evicted: low on memory"}},
		"old program": {[]corev1.PodStatus{ended(1, "tulle-proxy: accepts at most 1 arg(s), received 2")}, nil, []string{"?     whether", "exit code 1: Error tulle-proxy: accepts at most"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, "hostIP", c.status...)
				began := time.Now()
				f.reach(t.Context())
				if took := time.Since(began); took > reachTime {
					t.Errorf("it took %s", took)
				}
				var out bytes.Buffer
				f.last().write(&out)
				var codes []Code
				for _, found := range f.last().Findings {
					codes = append(codes, found.Code)
				}
				if !slices.Equal(codes, c.codes) {
					t.Errorf("%v, want %v", codes, c.codes)
				}
				for _, want := range c.says {
					if !strings.Contains(out.String(), want) {
						t.Errorf("it does not say %q", want)
					}
				}
				t.Logf("\n%s", &out)
				if left := f.left(t); len(left) > 0 || len(f.made) != len(c.status) {
					t.Errorf("%d made, %d left", len(f.made), len(left))
				}
			})
		})
	}
}

// The pods are asked for as Pod Security "restricted" wants them, on their node, with what the image needs, and try the
// address that the injector tells pods.
func TestReachPod(t *testing.T) {
	for address, want := range map[string]string{"hostIP": "$(TULLE_HOST_IP):4140", "hostIPv6": "[$(TULLE_HOST_IP)]:4140", "nodeName": "$(NODE_NAME):4140", "service": "tulle-host.tulle.svc:4140"} {
		f := newFleet(t, address, ended(0, ""))
		f.reach(t.Context())
		if len(f.made) != 1 || !slices.Equal(f.made[0].Spec.Containers[0].Command, []string{"/tulle-proxy", "reach", want}) {
			t.Fatalf("%s: %+v", address, f.made)
		}
		p := f.made[0]
		one := p.Spec.Containers[0]
		var fields []string
		for _, e := range one.Env {
			fields = append(fields, e.Name+"="+e.ValueFrom.FieldRef.FieldPath)
		}
		if !slices.Equal(fields, []string{"NODE_NAME=spec.nodeName", "TULLE_HOST_IP=status.hostIP"}) {
			t.Errorf("%s: %q", address, fields)
		}
		s := one.SecurityContext
		if *s.AllowPrivilegeEscalation || !*s.RunAsNonRoot || *s.RunAsUser != 65532 || s.Capabilities.Drop[0] != "ALL" || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault || p.Spec.HostNetwork {
			t.Errorf("%+v", s)
		}
		if p.Spec.NodeName != "" || p.Spec.ImagePullSecrets[0].Name != "registry" || len(p.Spec.Tolerations) != 5 || *p.Spec.ActiveDeadlineSeconds != 60 ||
			one.Image != "example.com/tulle-proxy:1" || one.TerminationMessagePolicy != corev1.TerminationMessageFallbackToLogsOnError {
			t.Errorf("%+v", p.Spec)
		}
		if p.Labels[labelComponent] == "host" || p.Labels["app.kubernetes.io/part-of"] != "tulle" || metav1.GetControllerOf(&p) != nil || p.OwnerReferences[0].UID != "u" {
			t.Errorf("%+v", p.ObjectMeta)
		}
	}
}

// What cannot be tried is said, and an interrupted check leaves nothing behind.
func TestReachUnknown(t *testing.T) {
	pods := schema.GroupResource{Resource: "pods"}
	for _, c := range []struct {
		err  error
		want string
	}{
		{apierrors.NewForbidden(pods, "", errors.New(`User "bob" cannot create resource "pods" in API group ""`)), "whether pods reach the proxy on n0, n1: you may not create pods there"},
		{apierrors.NewForbidden(pods, "x", errors.New("exceeded quota: none")), "exceeded quota: none"},
		{apierrors.NewForbidden(pods, "x", errors.New(`violates PodSecurity "odd"`)), `violates PodSecurity "odd"`},
	} {
		f := newFleet(t, "hostIP", ended(0, ""), ended(0, ""))
		f.client.PrependReactor("create", "pods", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, c.err })
		f.reach(t.Context())
		if got := f.last().Unchecked; len(got) != 1 || !strings.Contains(got[0], c.want) || len(f.last().Findings)+len(f.last().Passed) > 0 {
			t.Errorf("%q, want %q", got, c.want)
		}
	}

	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, "hostIP", corev1.PodStatus{Phase: corev1.PodPending})
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(3*time.Second, cancel)
		f.reach(ctx)
		if got := f.last().Unchecked; len(got) != 1 || !strings.Contains(got[0], "the check was interrupted") || len(f.left(t)) > 0 || len(f.made) != 1 {
			t.Errorf("%q, %d left", got, len(f.left(t)))
		}
	})

	f := newFleet(t, "hostIP", ended(0, ""))
	f.client.PrependReactor("delete", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(pods, "x", errors.New(`cannot delete resource "pods"`))
	})
	f.reach(t.Context())
	if got := f.last().Unchecked; len(got) != 1 || !strings.Contains(got[0], "1 pod could not be deleted; run kubectl delete -n tulle pods -l "+selectReach) {
		t.Errorf("%q", got)
	}

	f = newFleet(t, "hostIP")
	f.hostSet = nil
	f.reach(t.Context())
	if got := f.last().Unchecked; len(got) != 1 || !strings.Contains(got[0], "daemonset/tulle-host is not there") {
		t.Errorf("%q", got)
	}
}
