package install

import (
	"bytes"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta/testrestmapper"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
)

// A namespace in which others run or store something stays, and nothing else of Tulle does.
func TestSpare(t *testing.T) {
	ours := map[string]string{"app.kubernetes.io/name": "tulle", "app.kubernetes.io/part-of": "tulle"}
	object := func(name string, labels map[string]string, by ...string) metav1.ObjectMeta {
		o := metav1.ObjectMeta{Name: name, Namespace: "tulle", Labels: labels}
		if len(by) > 0 {
			o.OwnerReferences = []metav1.OwnerReference{{APIVersion: by[0], Kind: by[1], Name: "x", UID: "1", Controller: new(true)}}
		}
		return o
	}
	tulle := []runtime.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "tulle", Labels: ours}},
		&appsv1.Deployment{ObjectMeta: object("tulle-controller", ours)}, &appsv1.DaemonSet{ObjectMeta: object("tulle-host", ours)},
		&appsv1.ReplicaSet{ObjectMeta: object("tulle-controller-5d8f", nil, "apps/v1", "Deployment")},
		&corev1.Pod{ObjectMeta: object("tulle-controller-5d8f-x", nil, "apps/v1", "ReplicaSet")},
		&corev1.Pod{ObjectMeta: object("tulle-host-x", nil, "apps/v1", "DaemonSet")},
		&corev1.ConfigMap{ObjectMeta: object("kube-root-ca.crt", nil)}, &corev1.Secret{ObjectMeta: object("tulle-ca", nil)},
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop"}},
	}
	for name, c := range map[string]struct {
		other runtime.Object
		want  string // empty: the namespace goes
	}{
		"nothing":            {&corev1.Secret{ObjectMeta: object("mine", nil)}, ""},
		"a workload":         {&appsv1.StatefulSet{ObjectMeta: object("db", nil)}, "statefulset.apps/db"},
		"a job":              {&batchv1.Job{ObjectMeta: object("night", nil)}, "job.batch/night"},
		"a pod of nobody":    {&corev1.Pod{ObjectMeta: object("shell", nil)}, "pod/shell"},
		"a pod of an object": {&corev1.Pod{ObjectMeta: object("db-0", nil, "example.test/v1", "Database")}, "pod/db-0"},
		"a volume":           {&corev1.PersistentVolumeClaim{ObjectMeta: object("data", nil)}, "persistentvolumeclaim/data"},
	} {
		t.Run(name, func(t *testing.T) {
			objects := append([]runtime.Object{c.other}, tulle...)
			var out, talk bytes.Buffer
			u := &uninstall{namespace: "tulle", all: true, yes: true, in: strings.NewReader(""), out: &out, talk: &talk, reach: &reach{
				kube: fake.NewClientset(), dynamic: dynamicfake.NewSimpleDynamicClient(scheme.Scheme, objects...),
				mapper: testrestmapper.TestOnlyStaticRESTMapper(scheme.Scheme),
			}}
			if err := u.run(t.Context()); err != nil {
				t.Fatal(err)
			}
			of, err := u.of(corev1.SchemeGroupVersion.WithKind("Namespace"), "")
			if err != nil {
				t.Fatal(err)
			}
			_, err = of.Get(t.Context(), "tulle", metav1.GetOptions{})
			said := "namespace/tulle kept\n"
			if c.want == "" {
				said = "namespace/tulle deleted\n"
			}
			if apierrors.IsNotFound(err) != (c.want == "") || !strings.Contains(out.String(), said) || !strings.Contains(out.String(), "secret/tulle-ca deleted\n") || !strings.Contains(out.String(), "daemonset.apps/tulle-host deleted\n") {
				t.Errorf("%v\n%s", err, out.String())
			}
			want := ""
			if c.want != "" {
				want = "The namespace tulle is kept, because there is more in it than Tulle: " + c.want + ". \"kubectl delete namespace tulle\" takes it, with all of that.\n"
			}
			if talk.String() != want {
				t.Errorf("it says %q, want %q", talk.String(), want)
			}
		})
	}
}
