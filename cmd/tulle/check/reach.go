package check

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/webhook"
)

const (
	// reachTime bounds how long all pods may take together, from their creation to their result.
	reachTime = time.Minute
	// reachEvery is how often they are looked at.
	reachEvery = 500 * time.Millisecond
	// reachCleanup bounds how long it may take to delete them.
	reachCleanup = 30 * time.Second

	reachName      = "tulle-check"
	labelComponent = "app.kubernetes.io/component"
	labelRun       = "tulle.dev/check-run" // keeps the pods of two checks at a time apart
	selectReach    = "app.kubernetes.io/name=tulle,app.kubernetes.io/component=check"
)

// attempt is a pod that tries to reach the proxy of its node.
type attempt struct {
	node, pod string
	address   string // as the pod was told it
	done      bool
	wrong     string // what the pod said was wrong
	unknown   error  // why it said nothing; if neither is set, the proxy answered
}

// end ends an attempt without a word of the pod.
func (a *attempt) end(why error) { a.done, a.unknown = true, why }

// reach has a pod on each node with a host proxy look whether that answers where pods are told it is.
func (c *checker) reach(ctx context.Context) {
	const what = "the way from pods to the proxy of their node"
	if c.hostSet == nil {
		c.skip(what, fmt.Errorf("daemonset/%s is not there or cannot be read", hostName))
		return
	}
	address, fields, err := c.toldAddress()
	if err != nil {
		c.skip(what, err)
		return
	}
	nodes, err := c.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		c.skip(what, err)
		return
	}
	run := strings.ToLower(rand.Text()[:8])
	var attempts []*attempt
	for i, name := range c.hostNodes() {
		a := &attempt{node: name, pod: fmt.Sprintf("%s-%s-%d", reachName, run, i)}
		attempts = append(attempts, a)
		at := slices.IndexFunc(nodes.Items, func(n corev1.Node) bool { return n.Name == name })
		switch {
		case at < 0:
			a.end(errors.New("the node is not there any more"))
		case nodes.Items[at].Labels[corev1.LabelOSStable] != "" && nodes.Items[at].Labels[corev1.LabelOSStable] != string(corev1.Linux):
			a.end(errors.New("the node does not run Linux"))
		case !slices.ContainsFunc(nodes.Items[at].Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		}):
			a.end(errors.New("the node is not ready"))
		}
	}
	if want := int(c.hostSet.Status.DesiredNumberScheduled); want > len(attempts) {
		c.skip(what, fmt.Errorf("on %s the host proxy has no pod yet", count(want-len(attempts), "node")))
	}
	if len(attempts) == 0 {
		c.pass("there is no host proxy for pods to reach")
		return
	}
	c.attempt(ctx, run, address, fields, attempts)
	c.reachReport(address, attempts)
}

// hostNodes are the nodes that the DaemonSet controller made a pod for, which may not have started.
func (c *checker) hostNodes() []string {
	names := map[string]bool{}
	for _, p := range c.hosts {
		if !metav1.IsControlledBy(&p, c.hostSet) || p.DeletionTimestamp != nil {
			continue
		}
		if p.Spec.NodeName != "" {
			names[p.Spec.NodeName] = true
			continue
		}
		if a := p.Spec.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
			for _, t := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
				for _, f := range t.MatchFields {
					if f.Key == metav1.ObjectNameField {
						names[strings.Join(f.Values, "")] = true
					}
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// toldAddress asks the injector where it sends the requests of a pod in host mode, and for the variables that this
// refers to.
func (c *checker) toldAddress() (address string, fields []corev1.EnvVar, err error) {
	pod := []byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"},"spec":{"containers":[{"name":"x","image":"x"}]}}`)
	in := webhook.Namespace{Name: "x", Labels: map[string]string{webhook.LabelInject: webhook.NamespaceEnabled, webhook.LabelMode: string(webhook.ModeHost)}}
	config := c.config
	config.ExcludedNamespaces = nil
	result, err := webhook.Inject(pod, in, config)
	if err != nil {
		return "", nil, fmt.Errorf("what pods are told is not known: %w", err)
	}
	var operations []struct {
		Path  string          `json:"path"`
		Value json.RawMessage `json:"value"`
	}
	if err := json.Unmarshal(result.Patch, &operations); err != nil {
		return "", nil, fmt.Errorf("what pods are told is not known: %w", err)
	}
	var env []corev1.EnvVar
	for _, o := range operations {
		if o.Path == "/spec/containers/0/env" {
			if err := json.Unmarshal(o.Value, &env); err != nil {
				return "", nil, fmt.Errorf("what pods are told is not known: %w", err)
			}
		}
	}
	for _, e := range env {
		switch {
		case e.ValueFrom != nil && e.ValueFrom.FieldRef != nil:
			fields = append(fields, e)
		case e.Name == "http_proxy":
			address = strings.TrimPrefix(e.Value, "http://")
		}
	}
	if address == "" {
		return "", nil, fmt.Errorf("a pod in host mode is told no proxy: %s", result.Reason)
	}
	return address, fields, nil
}

// attempt starts the pods, waits for their results, and deletes them, also when ctx ends.
func (c *checker) attempt(ctx context.Context, run, address string, fields []corev1.EnvVar, attempts []*attempt) {
	bounded, cancel := context.WithTimeout(ctx, reachTime)
	defer cancel()
	pods := c.client.CoreV1().Pods(c.mesh)
	var created []*attempt
	var mu sync.Mutex
	defer func() {
		// Without ctx: its end is no reason to leave pods behind.
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), reachCleanup)
		defer cancel()
		var left []string
		var why error
		each(len(created), func(i int) {
			now := int64(0)
			if err := pods.Delete(cleanup, created[i].pod, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil && !apierrors.IsNotFound(err) {
				mu.Lock()
				defer mu.Unlock()
				left, why = append(left, created[i].pod), err
			}
		})
		if len(left) > 0 {
			c.skip(fmt.Sprintf("%s could not be deleted; run %s", count(len(left), "pod"), kubectl(c.mesh, "delete", "pods -l "+selectReach)), why)
		}
	}()
	each(len(attempts), func(i int) {
		a := attempts[i]
		if a.done || bounded.Err() != nil {
			return
		}
		_, err := pods.Create(bounded, c.reachPod(a, run, address, fields), metav1.CreateOptions{})
		switch {
		case err == nil:
		case apierrors.IsForbidden(err) && strings.Contains(err.Error(), "cannot create resource"):
			a.end(errors.New("you may not create pods there"))
			return
		case apierrors.ReasonForError(err) != metav1.StatusReasonUnknown && !apierrors.IsTimeout(err) && !apierrors.IsServerTimeout(err) && !apierrors.IsInternalError(err):
			a.end(fmt.Errorf("no pod can be made: %s", strings.ReplaceAll(err.Error(), a.pod, reachName)))
			return
		default: // it may have been made all the same
			a.end(fmt.Errorf("no pod can be made: %s", strings.ReplaceAll(err.Error(), a.pod, reachName)))
		}
		mu.Lock()
		created = append(created, a)
		mu.Unlock()
	})
	tick := time.NewTicker(reachEvery)
	defer tick.Stop()
	var last map[string]string // what each pod waits for
	for {
		open := slices.DeleteFunc(slices.Clone(attempts), func(a *attempt) bool { return a.done })
		if len(open) == 0 {
			return
		}
		list, err := pods.List(bounded, metav1.ListOptions{LabelSelector: selectReach + "," + labelRun + "=" + run})
		if err != nil && bounded.Err() == nil {
			for _, a := range open {
				a.end(fmt.Errorf("its pod cannot be read: %w", err))
			}
			return
		}
		if err == nil {
			last = look(open, list.Items)
			if !slices.ContainsFunc(open, func(a *attempt) bool { return !a.done }) {
				return
			}
		}
		select {
		case <-tick.C:
		case <-bounded.Done():
			for _, a := range open {
				switch why := last[a.pod]; {
				case a.done:
				case ctx.Err() != nil:
					a.end(errors.New("the check was interrupted"))
				case why == "":
					a.end(fmt.Errorf("the pod had no result after %s", reachTime))
				default:
					a.end(fmt.Errorf("the pod had not started after %s: %s", reachTime, strings.ReplaceAll(why, a.pod, reachName)))
				}
			}
			return
		}
	}
}

// look ends the attempts whose pods have, and returns what the others wait for.
func look(open []*attempt, pods []corev1.Pod) map[string]string {
	waits := map[string]string{}
	for _, a := range open {
		at := slices.IndexFunc(pods, func(p corev1.Pod) bool { return p.Name == a.pod })
		if at < 0 {
			a.end(errors.New("somebody deleted the pod"))
			continue
		}
		p := &pods[at]
		for _, s := range p.Status.Conditions {
			if s.Type == corev1.PodScheduled && s.Status == corev1.ConditionFalse {
				waits[a.pod] = s.Message
			}
		}
		var ended *corev1.ContainerStateTerminated
		for _, s := range p.Status.ContainerStatuses {
			ended = s.State.Terminated
			if w := s.State.Waiting; w != nil && w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" {
				why := strings.TrimSuffix(w.Reason+": "+w.Message, ": ")
				waits[a.pod] = why
				// These do not get better within a minute; the others may.
				if slices.Contains([]string{"ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError"}, w.Reason) {
					a.end(fmt.Errorf("the pod cannot start: %s", strings.ReplaceAll(why, a.pod, reachName)))
				}
			}
		}
		switch {
		case a.done:
		case ended != nil:
			a.said(ended)
		case p.Status.Phase == corev1.PodFailed:
			a.end(fmt.Errorf("the pod cannot run: %s", strings.TrimSuffix(p.Status.Reason+": "+p.Status.Message, ": ")))
		case p.Status.Phase == corev1.PodSucceeded:
			a.done = true
		}
	}
	return waits
}

// said is what a pod that has ended said of the proxy. Only the words of "tulle-proxy reach" count.
func (a *attempt) said(t *corev1.ContainerStateTerminated) {
	a.done = true
	if t.ExitCode == 0 {
		return
	}
	for line := range strings.Lines(t.Message) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "tulle-proxy: reach "); ok {
			if address, wrong, ok := strings.Cut(rest, ": "); ok {
				a.address, a.wrong = address, wrong
				return
			}
		}
	}
	a.unknown = fmt.Errorf("the pod failed with exit code %d: %s", t.ExitCode, strings.TrimSpace(strings.Join([]string{t.Reason, t.Message}, " ")))
}

// reachPod is a pod that may do nothing but connect.
func (c *checker) reachPod(a *attempt, run, address string, fields []corev1.EnvVar) *corev1.Pod {
	template := c.hostSet.Spec.Template.Spec
	var proxy corev1.Container
	if len(template.Containers) > 0 {
		proxy = template.Containers[0]
	}
	security := &corev1.SecurityContext{AllowPrivilegeEscalation: new(false), ReadOnlyRootFilesystem: new(true), RunAsNonRoot: new(true),
		Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}
	if s := proxy.SecurityContext; s != nil {
		security.RunAsUser, security.RunAsGroup = s.RunAsUser, s.RunAsGroup
	}
	few := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("32Mi")}
	most := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("200m"), corev1.ResourceMemory: resource.MustParse("64Mi")}
	tolerations := slices.Clone(template.Tolerations)
	for _, key := range []string{corev1.TaintNodeUnschedulable, corev1.TaintNodeMemoryPressure, corev1.TaintNodeDiskPressure, corev1.TaintNodePIDPressure} {
		// As the DaemonSet controller adds them.
		tolerations = append(tolerations, corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule})
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: a.pod, Namespace: c.mesh,
			Labels: map[string]string{"app.kubernetes.io/name": "tulle", "app.kubernetes.io/part-of": "tulle", labelComponent: "check", labelRun: run},
			// If this program is killed, the pod goes with the installation. It is not the controller of the pod.
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "DaemonSet", Name: c.hostSet.Name, UID: c.hostSet.UID}},
		},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, ActiveDeadlineSeconds: new(int64(reachTime / time.Second)), TerminationGracePeriodSeconds: new(int64(0)),
			AutomountServiceAccountToken: new(false), EnableServiceLinks: new(false),
			ImagePullSecrets: template.ImagePullSecrets, Tolerations: tolerations,
			SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: new(true), SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
			Affinity: &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{a.node}}}}}}}},
			Containers: []corev1.Container{{
				Name: "reach", Image: proxy.Image, ImagePullPolicy: proxy.ImagePullPolicy, Command: []string{"/tulle-proxy", "reach", address}, Env: fields,
				TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError, SecurityContext: security,
				Resources: corev1.ResourceRequirements{Requests: few, Limits: most},
			}},
		},
	}
}

// reachReport says what came of it: one line for all nodes where it is the same.
func (c *checker) reachReport(address string, attempts []*attempt) {
	good := 0
	wrong := map[Code][]*attempt{}
	unknown := map[string][]string{}
	for _, a := range attempts {
		switch {
		case a.unknown != nil:
			unknown[a.unknown.Error()] = append(unknown[a.unknown.Error()], a.node)
		case a.wrong != "":
			code := unreachedCode(a.wrong)
			wrong[code] = append(wrong[code], a)
		default:
			good++
		}
	}
	if good > 0 {
		c.pass("on %s a pod reaches the proxy where pods are told it is, %s", count(good, "node"), address)
	}
	for _, code := range slices.Sorted(maps.Keys(wrong)) {
		c.find(c.unreached(code, address, wrong[code]))
	}
	for _, why := range slices.Sorted(maps.Keys(unknown)) {
		c.skip("whether pods reach the proxy on "+some(unknown[why]), errors.New(why))
	}
}

// unreachedCode is the kind of what "tulle-proxy reach" said.
func unreachedCode(wrong string) Code {
	switch {
	case strings.HasPrefix(wrong, "the name is not known"):
		return NameUnknown
	case strings.HasPrefix(wrong, "connection refused"):
		return NobodyThere
	case strings.HasPrefix(wrong, "no proxy of Tulle"):
		return Foreign
	}
	return WayBarred
}

// unreached is the finding that pods of these nodes do not reach their proxy.
func (c *checker) unreached(code Code, address string, at []*attempt) Finding {
	var nodes []string
	for _, a := range at {
		nodes = append(nodes, a.node)
	}
	f := Finding{Code: code, Message: fmt.Sprintf("on %s pods do not reach their proxy at %s: %s", some(nodes), at[0].address, at[0].wrong)}
	if len(at) > 1 {
		f.Message = fmt.Sprintf("on %s pods do not reach their proxy (on %s at %s: %s)", some(nodes), at[0].node, at[0].address, at[0].wrong)
	}
	pods := kubectl(c.mesh, "get", "pods -l app.kubernetes.io/component=host -o wide")
	_, port, _ := strings.Cut(address[strings.LastIndexByte(address, ']')+1:], ":")
	switch code {
	case NameUnknown:
		f.Message += ". The cluster's DNS does not know the name that pods are told"
		f.Fix = "# set injector.hostAddress: auto, so that pods are told an address, and run\n" + c.upgrade("") + "\nkubectl get pods -n kube-system -l k8s-app=kube-dns  # if names of Services are not known either"
	case NobodyThere:
		f.Message += ". Nothing listens there: the proxy is down, or listens at another address of the node"
		f.Fix = pods + "\n# if the proxy is ready: host.listenAddress must be empty, or that address"
	case Foreign:
		f.Message += ". Another program has the port, or something between pod and node answers"
		f.Fix = pods + "\n# on the node: ss -ltnp 'sport = :" + port + "' shows whose port that is"
	default:
		f.Message += ". A NetworkPolicy, the CNI or a firewall of the node keeps pods from it"
		f.Fix = "kubectl get networkpolicies -A\n# let pods reach port " + port + " of their own node: egress rules of policies, the CNI's host firewall, iptables of the node"
	}
	return f
}
