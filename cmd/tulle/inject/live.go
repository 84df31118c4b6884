package inject

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"

	"github.com/tulle-mesh/tulle/cmd/tulle/fault"
	"github.com/tulle-mesh/tulle/cmd/tulle/kube"
)

// liveObject is an object of the cluster.
type liveObject struct {
	*unstructured.Unstructured
	json []byte
}

func (o *liveObject) title() string { return strings.ToLower(o.GetKind()) + "/" + o.GetName() }

// resource is a kind that people have pods of, with the words that kubectl takes for it.
type resource struct {
	words []string // the first one is shown
	gvr   schema.GroupVersionResource
}

func resources() []resource {
	core := func(words ...string) resource {
		return resource{words, schema.GroupVersionResource{Version: "v1", Resource: words[len(words)-1]}}
	}
	of := func(group string, words ...string) resource {
		return resource{words, schema.GroupVersionResource{Group: group, Version: "v1", Resource: words[len(words)-1]}}
	}
	return []resource{
		core("pod", "po", "pods"), of("apps", "deploy", "deployment", "deployments"), of("apps", "statefulset", "sts", "statefulsets"),
		of("apps", "daemonset", "ds", "daemonsets"), of("apps", "replicaset", "rs", "replicasets"),
		of("batch", "job", "jobs"), of("batch", "cronjob", "cj", "cronjobs"), core("replicationcontroller", "rc", "replicationcontrollers"),
	}
}

// resourceOf finds the resource that a word stands for: one of those above without asking, any other as kubectl finds it.
func (e *explainer) resourceOf(word string) (schema.GroupVersionResource, error) {
	for _, r := range resources() {
		if slices.Contains(r.words, strings.ToLower(word)) {
			return r.gvr, nil
		}
	}
	config, err := e.src.at.Config()
	if err != nil {
		return schema.GroupVersionResource{}, err
	}
	client, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return schema.GroupVersionResource{}, err
	}
	cached := memory.NewMemCacheClient(client)
	mapper := restmapper.NewShortcutExpander(restmapper.NewDeferredDiscoveryRESTMapper(cached), cached, nil)
	if full, group := schema.ParseResourceArg(strings.ToLower(word)); full != nil {
		if gvr, err := mapper.ResourceFor(*full); err == nil {
			return gvr, nil
		}
		return mapper.ResourceFor(group.WithVersion(""))
	}
	return mapper.ResourceFor(schema.ParseGroupResource(strings.ToLower(word)).WithVersion(""))
}

func (e *explainer) dynamic() (dynamic.Interface, error) {
	config, err := e.src.at.Config()
	if err != nil {
		return nil, err
	}
	config.Timeout = kube.AnswerTime
	return dynamic.NewForConfig(config)
}

// namespace is the one that is meant on the command line.
func (e *explainer) namespace() string {
	if e.src.namespace != "" {
		return e.src.namespace
	}
	return e.src.at.Namespace()
}

// find gets an object of the cluster.
func (e *explainer) find(ctx context.Context, kind, name string) (*liveObject, error) {
	gvr, err := e.resourceOf(kind)
	if meta.IsNoMatchError(err) {
		var words []string
		for _, r := range resources() {
			words = append(words, r.words[0])
		}
		return nil, fault.Misused(fmt.Errorf("the cluster knows no kind %q", kind), "among others there are "+strings.Join(words, ", "))
	} else if err != nil {
		return nil, fault.Failed(fmt.Errorf("look for the kind %s: %w", kind, err), kube.Hint)
	}
	client, err := e.dynamic()
	if err != nil {
		return nil, fault.Failed(err, kube.Hint)
	}
	object, err := client.Resource(gvr).Namespace(e.namespace()).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		if o, err := client.Resource(gvr).Get(ctx, name, metav1.GetOptions{}); err == nil { // it is in no namespace
			return nil, fault.Failed(fmt.Errorf("%s/%s is no pod and has no pod template", strings.ToLower(o.GetKind()), name),
				"name a pod or what makes pods; \"tulle check -n NAMESPACE\" looks at all that is in a namespace")
		}
		hint := "name its namespace with -n"
		if e.src.namespace != "" {
			hint = fmt.Sprintf("\"kubectl get %s -n %s\" lists those that are there", kind, e.src.namespace)
		}
		return nil, fault.Failed(fmt.Errorf("there is no %s %s in namespace %s", kind, name, e.namespace()), hint)
	} else if err != nil {
		return nil, fault.Failed(fmt.Errorf("read %s %s: %w", kind, name, err), kube.Hint)
	}
	text, err := json.Marshal(object)
	if err != nil {
		return nil, fault.Failed(err, "")
	}
	return &liveObject{object, text}, nil
}

// completionTime bounds what a shell waits for.
const completionTime = 3 * time.Second

// complete completes kinds and the names of objects that are there.
func (e *explainer) complete(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	switch len(args) {
	case 0:
		var words []string
		for _, r := range resources() {
			words = append(words, r.words[0])
		}
		return words, cobra.ShellCompDirectiveNoFileComp
	case 1:
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
		defer cancel()
		gvr, err := e.resourceOf(args[0])
		if err != nil {
			break
		}
		client, err := e.dynamic()
		if err != nil {
			break
		}
		list, err := client.Resource(gvr).Namespace(e.namespace()).List(ctx, metav1.ListOptions{Limit: 500})
		if err != nil {
			break
		}
		var names []string
		for _, o := range list.Items {
			names = append(names, o.GetName())
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}
