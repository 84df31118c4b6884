package inject

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/cmd/tulle/fault"
	"github.com/tulle-mesh/tulle/cmd/tulle/kube"
	"github.com/tulle-mesh/tulle/cmd/tulle/values"
	"github.com/tulle-mesh/tulle/webhook"
	"github.com/tulle-mesh/tulle/webhook/settings"
	"github.com/tulle-mesh/tulle/webhook/workload"
)

// source is where the injector's settings and the namespaces come from, as flags say: a cluster, or the chart's
// values.
type source struct {
	at        kube.Flags
	live      bool
	mesh      string // namespace
	values    []string
	sets      []string
	ca        string // file
	namespace string
}

func (s *source) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	s.at.Add(f)
	f.StringVar(&s.mesh, "mesh-namespace", "tulle", "namespace that Tulle runs in")
	f.StringVarP(&s.namespace, "namespace", "n", "", "namespace of what says none itself (default: that of the kubeconfig's context)")
	f.StringArrayVar(&s.values, "values", nil, "file of the chart's values that Tulle is installed with; may be repeated, later ones win")
	f.StringArrayVar(&s.sets, "set", nil, "one of the chart's values, as in helm: key=value; may be repeated, wins over files")
	f.StringVar(&s.ca, "controller-ca", "", "file of the CA by which sidecars trust the controller, in PEM; a cluster has it in Secret tulle-controller-tls")
}

// asksCluster reports whether the command line asks for a cluster.
func (s *source) asksCluster() bool { return s.live || s.at.Context != "" || s.at.Kubeconfig != "" }

// injector is all that there is to know to inject by.
type injector struct {
	config webhook.Config
	from   string // where config is from, in words
	// client is nil without a cluster. caFault is why there is no CA although there is a cluster.
	client  kubernetes.Interface
	caFault error
	// made are the namespaces in the files, known those looked up so far, absent those that the cluster lacks.
	made, known map[string]webhook.Namespace
	absent      map[string]bool
	notes       []string // for people
}

// check refuses flags that do not go together.
func (s *source) check(cluster bool) error {
	if cluster && len(s.values)+len(s.sets) > 0 {
		return fault.Misused(errors.New("--values and --set are settings without a cluster, but one is asked for"), "leave them out to take the settings of the cluster")
	}
	if slices.Contains(s.values, "-") {
		return fault.Misused(errors.New("--values cannot be stdin here, which is for what is looked at"), "name a file")
	}
	return nil
}

// open reads the settings. What there is of a cluster is asked only if cluster is true.
func (s *source) open(ctx context.Context, cluster bool) (*injector, error) {
	if err := s.check(cluster); err != nil {
		return nil, err
	}
	in := &injector{made: map[string]webhook.Namespace{}, known: map[string]webhook.Namespace{}, absent: map[string]bool{}}
	var text []byte
	var facts settings.Facts
	var ca string
	var err error
	if cluster {
		client, err := s.at.Client()
		if err != nil {
			return nil, fault.Failed(fmt.Errorf("there is no way to a cluster: %w", err), kube.Hint)
		}
		in.client = client
		in.from = "ConfigMap tulle-controller in namespace " + s.mesh
		if text, facts, err = in.read(ctx, s.mesh); err != nil {
			return nil, err
		}
		ca, in.caFault = in.readCA(ctx, s.mesh)
	} else {
		in.from = "the chart's defaults"
		if len(s.values)+len(s.sets) > 0 {
			in.from = "the chart with the values given"
		}
		if text, err = s.rendered(); err != nil {
			return nil, err
		}
	}
	parsed, err := settings.Parse("controller.yaml", text)
	if err != nil {
		return nil, fault.Failed(fmt.Errorf("read %s: %w", in.from, err), "use the tulle of the version that is installed")
	}
	if s.ca != "" {
		text, err := os.ReadFile(s.ca)
		if err == nil && !strings.Contains(string(text), "-----BEGIN CERTIFICATE-----") {
			err = fmt.Errorf("there is no certificate in %s", s.ca)
		}
		if err != nil {
			return nil, fault.Failed(fmt.Errorf("read the CA of the controller: %w", err), "it is PEM text that begins with -----BEGIN CERTIFICATE-----")
		}
		ca, in.caFault = string(text), nil
	}
	in.config = parsed.Resolve(facts).Config(ca)
	return in, nil
}

// rendered is the controller's file as the chart writes it.
func (s *source) rendered() ([]byte, error) {
	text, err := values.Render(s.mesh, s.values, s.sets, strings.NewReader(""))
	if err != nil {
		return nil, err
	}
	f, err := workload.Parse("chart", text)
	if err != nil {
		return nil, fault.Failed(err, "")
	}
	all, err := f.Values()
	if err != nil {
		return nil, fault.Failed(err, "")
	}
	for _, v := range all {
		var object corev1.ConfigMap
		if v != nil && yaml.Unmarshal(v, &object) == nil && object.Kind == "ConfigMap" && object.Name == settingsName {
			return []byte(object.Data[settingsKey]), nil
		}
	}
	return nil, fault.Failed(errors.New("the chart has no settings for the controller"), "")
}

// Where the controller's settings and its CA are in the mesh's namespace.
const (
	settingsName = "tulle-controller"
	settingsKey  = "controller.yaml"
	caSecret     = "tulle-controller-tls"
	caKey        = "ca.crt"
)

// read reads the settings, and what the nodes decide.
func (in *injector) read(ctx context.Context, mesh string) (text []byte, facts settings.Facts, err error) {
	object, err := in.client.CoreV1().ConfigMaps(mesh).Get(ctx, settingsName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, facts, fault.Failed(fmt.Errorf("there are no settings of Tulle in the cluster: no ConfigMap %s in namespace %s", settingsName, mesh),
			"name the namespace that Tulle runs in with --mesh-namespace, or install it")
	}
	if err != nil {
		return nil, facts, fault.Failed(fmt.Errorf("read the settings of Tulle: %w", err), kube.Hint)
	}
	nodes, err := in.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		in.notes = append(in.notes, fmt.Sprintf("the nodes cannot be read (%v): they are taken for nodes with IPv4 addresses and kubelets of 1.29 or later", err))
		return []byte(object.Data[settingsKey]), facts, nil
	}
	facts = settings.Survey(func(yield func(settings.Node) bool) {
		for i := range nodes.Items {
			if n, ok := settings.NodeOf(&nodes.Items[i]); ok && !yield(n) {
				return
			}
		}
	})
	return []byte(object.Data[settingsKey]), facts, nil
}

// readCA reads the CA by which sidecars trust the controller.
func (in *injector) readCA(ctx context.Context, mesh string) (string, error) {
	object, err := in.client.CoreV1().Secrets(mesh).Get(ctx, caSecret, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	if len(object.Data[caKey]) == 0 {
		return "", fmt.Errorf("secret %s in namespace %s has no %s yet", caSecret, mesh, caKey)
	}
	return string(object.Data[caKey]), nil
}

// learn takes the namespaces that the files make.
func (in *injector) learn(files []*workload.File) {
	for _, f := range files {
		for _, o := range f.Objects {
			if o.APIVersion == "v1" && o.Kind == "Namespace" {
				in.made[o.Name] = webhook.Namespace{Name: o.Name, Labels: o.Labels, Annotations: o.Annotations}
			}
		}
	}
}

// lookup returns a namespace as it is once the files are applied: that of the cluster, with the labels and annotations that
// the files give it. One that is in neither has none.
func (in *injector) lookup(ctx context.Context, name string) (webhook.Namespace, error) {
	if ns, ok := in.known[name]; ok {
		return ns, nil
	}
	ns := webhook.Namespace{Name: name}
	made, ok := in.made[name]
	if in.client != nil {
		switch object, err := in.client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{}); {
		case err == nil:
			ns.Labels, ns.Annotations = object.Labels, object.Annotations
		case apierrors.IsNotFound(err):
			in.absent[name] = !ok
		default:
			return ns, fault.Failed(fmt.Errorf("read namespace %s: %w", name, err), kube.Hint)
		}
	}
	ns.Labels, ns.Annotations = over(ns.Labels, made.Labels), over(ns.Annotations, made.Annotations)
	in.known[name] = ns
	return ns, nil
}

// over lays one map over another.
func over(below, above map[string]string) map[string]string {
	all := map[string]string{}
	maps.Copy(all, below)
	maps.Copy(all, above)
	return all
}

// joinedNamespace is a namespace whose user asks for the mesh, whatever its label says, unless that is wrong.
func joinedNamespace(ns webhook.Namespace, mode string) webhook.Namespace {
	labels := over(ns.Labels, nil)
	if v, ok := labels[webhook.LabelInject]; !ok || v == webhook.NamespaceDisabled {
		labels[webhook.LabelInject] = webhook.NamespaceEnabled
	}
	if mode != "" {
		labels[webhook.LabelMode] = mode
	}
	ns.Labels = labels
	return ns
}

// excuse words an error of the injector's configuration.
func (in *injector) excuse(err error) error {
	switch {
	case !errors.Is(err, webhook.ErrConfig):
		return err
	case in.config.ControllerCA == "" && in.caFault != nil:
		return fault.Failed(fmt.Errorf("sidecar mode needs the CA by which sidecars trust the controller, and it cannot be read: %w", in.caFault),
			"give it in a file with --controller-ca")
	case in.config.ControllerCA == "":
		return fault.Failed(errors.New("sidecar mode needs the CA by which sidecars trust the controller"),
			fmt.Sprintf("give it with --controller-ca FILE, which \"kubectl get secret -n %s %s -o jsonpath='{.data.ca\\.crt}' | base64 -d\" writes, or take it from a cluster with --live", in.config.MeshNamespace, caSecret))
	}
	return fault.Failed(fmt.Errorf("%s: %w", in.from, err), "correct the settings of Tulle")
}
