// Package api holds the messages between a proxy and the namer.
//
// They travel as JSON, one object a line, on the two directions of a single HTTP request:
// POST /tulle/v1/watch. A proxy says hello, then what it watches and which names its callers
// use; the namer answers with the policy, the namers, the dtab, with replica sets, with the rules of
// the ConfigMaps that the hello named and, to host proxies, with the pods of the node. Every state is the latest: the namer may skip the ones
// between and never repeats an equal one. An empty object is a heartbeat, sent by both sides.
//
// Package api is messages and nothing else: the sides are naming/namer and
// naming/namer/client.
//
// Invariant: unknown fields are ignored on both sides, so that a controller and proxies of
// neighbouring versions understand each other; fields are only ever added.
//
//	→ {"hello":{"proxy":"web-0","node":"n1","mode":"sidecar","dtabNamespace":"default"}}
//	← {"policy":{"text":"service: {totalTimeoutMs: 900}","version":"1fc59c15e42f83b2"}}
//	← {"namers":{"text":"- kind: io.l5d.k8s\n","version":"0b2ad7e5f1c93d46"}}
//	← {"dtab":{"text":"/svc=>/host","version":"AAAAAAAAAAE="}}
//	→ {"use":{"add":[{"namespace":"shop","path":"/svc/world"}]}}
//	→ {"watch":"/#/io.l5d.k8s/default/http/world"}
//	← {"replicas":{"name":"/#/io.l5d.k8s/default/http/world","state":"neg"}}
//
// A proxy whose hello has "configMaps":[{"namespace":"shop","name":"rules","key":"dtab"}] hears of them, too:
//
//	← {"rules":{"namespace":"shop","name":"rules","key":"dtab","text":"/svc=>/host"}}
package api

import (
	"time"

	"github.com/tulle-mesh/tulle/naming"
)

const (
	// WatchPath is where the namer serves the stream.
	WatchPath = "/tulle/v1/watch"
	// Heartbeat is how often a side that has nothing else to say sends an empty message.
	Heartbeat = 10 * time.Second
	// Silence is how long a side hears nothing before it takes the other for dead: three
	// heartbeats, so that one lost in a pause does not end the stream.
	Silence = 3 * Heartbeat
	// MaxLine bounds a line from a proxy, in bytes.
	MaxLine = 64 << 10
	// MaxConfigMaps bounds those of a Hello, which must fit into a line.
	MaxConfigMaps = 80
)

// FromProxy is a line from a proxy. One field is set, or none in a heartbeat. The first line
// is Hello, which is sent once.
type FromProxy struct {
	Hello   *Hello `json:"hello,omitempty"`
	Watch   string `json:"watch,omitempty"`   // a bound id to send the replicas of
	Unwatch string `json:"unwatch,omitempty"` // an id to forget
	Use     *Use   `json:"use,omitempty"`
}

// Use says which names the proxy's callers began and ceased to use since it last said so; a
// stream begins with none. Long lists come in several messages, lest a line exceed MaxLine.
type Use struct {
	Add    []Name `json:"add,omitempty"`
	Remove []Name `json:"remove,omitempty"`
}

// Name is a name that somebody uses.
type Name struct {
	Namespace string `json:"namespace"` // the Kubernetes namespace of the caller
	Path      string `json:"path"`      // printed, such as /svc/world
}

// Modes of a proxy.
const (
	ModeSidecar = "sidecar"
	ModeHost    = "host"
)

// Hello says who is asking.
type Hello struct {
	Proxy         string `json:"proxy"` // name of the proxy's pod
	Node          string `json:"node"`
	Mode          string `json:"mode"` // ModeSidecar or ModeHost; the latter is sent Pods
	DtabNamespace string `json:"dtabNamespace"`
	// ConfigMaps are those by whose rules the proxy routes, each once.
	ConfigMaps []ConfigMap `json:"configMaps,omitempty"`
}

// ConfigMap is a key of a ConfigMap, which has a dtab for its value.
type ConfigMap struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Key       string `json:"key"`
}

// String names it for people.
func (m ConfigMap) String() string {
	return "key " + m.Key + " of ConfigMap " + m.Namespace + "/" + m.Name
}

// FromNamer is a line from the namer. One field is set, or none in a heartbeat.
type FromNamer struct {
	Policy   *Policy   `json:"policy,omitempty"`
	Namers   *Namers   `json:"namers,omitempty"`
	Dtab     *Dtab     `json:"dtab,omitempty"`
	Replicas *Replicas `json:"replicas,omitempty"`
	Pods     *Pods     `json:"pods,omitempty"`
	Rules    *Rules    `json:"rules,omitempty"`
}

// Policy is how all proxies of the mesh are to behave, in the words of docs/policy.md. The
// namer sends it before the first dtab if it has one by then. A proxy that does not know
// all the words keeps the policy that it has.
type Policy struct {
	Text    string `json:"text"`    // a file, which may be empty
	Version string `json:"version"` // the same for the same text, whoever sends it
}

// Namers is what names under /# mean in the mesh: a YAML list as naming/registry reads it. The
// namer sends it before the first dtab if it has one by then. A proxy that cannot read it keeps
// what it has.
type Namers struct {
	Text    string `json:"text"`
	Version string `json:"version"` // the same for the same text, whoever sends it
}

// Dtab is the base dtab of the proxy's dtab namespace, as naming.Dtab.Exact prints it: proxies
// get the very weights that were stored. A namespace that does not exist has the empty dtab
// without a version.
type Dtab struct {
	Text    string `json:"text"`
	Version string `json:"version"`
}

// Rules is what a ConfigMap says.
type Rules struct {
	ConfigMap
	// Text is the dtab to route by, as naming.Dtab.Exact prints it: that of the key, or the last
	// one that could be read. It is empty if there is no such ConfigMap or key, and nil as long as
	// nothing is known.
	Text *string `json:"text,omitempty"`
	// Cause is why Text is not what the key has now, with what is to be done; empty if it is.
	Cause string `json:"cause,omitempty"`
}

// Equal reports whether two states are one to a proxy.
func (r *Rules) Equal(s *Rules) bool {
	if r == nil || s == nil {
		return r == s
	}
	return r.ConfigMap == s.ConfigMap && r.Cause == s.Cause && (r.Text == nil) == (s.Text == nil) && (r.Text == nil || *r.Text == *s.Text)
}

// Replicas is the state of one watched name, printed as it was asked for.
type Replicas struct {
	Name string `json:"name"`
	naming.Replicas
}

// Pods is the whole list of pods that live on a node, sorted by IP.
type Pods struct {
	Node string `json:"node"`
	Pods []Pod  `json:"pods"`
}

// Pod ties an IP to the pod that owns it; a pod with two addresses is listed twice. Pods
// that share the IP of their node are not listed.
type Pod struct {
	IP        string `json:"ip"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}
