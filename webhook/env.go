package webhook

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

const (
	envNodeName = "NODE_NAME"
	envHostIP   = "TULLE_HOST_IP"
	envPodIP    = "TULLE_POD_IP"
)

// envVar is an entry of an environment as the API server writes it, defaults included, so that the next
// pass recognises it.
type envVar struct {
	Name      string     `json:"name"`
	Value     string     `json:"value,omitempty"`
	ValueFrom *envSource `json:"valueFrom,omitempty"`
}

type envSource struct {
	FieldRef fieldRef `json:"fieldRef"`
}

type fieldRef struct {
	APIVersion string `json:"apiVersion"`
	FieldPath  string `json:"fieldPath"`
}

func literalVar(name, value string) envVar { return envVar{Name: name, Value: value} }

func fieldVar(name, path string) envVar {
	return envVar{Name: name, ValueFrom: &envSource{fieldRef{APIVersion: "v1", FieldPath: path}}}
}

// is reports whether e, from the pod, means the same as v.
func (v envVar) is(e envView) bool {
	if e.Name != v.Name {
		return false
	}
	if v.ValueFrom == nil {
		return e.literal() && e.Value == v.Value
	}
	if e.literal() || e.Value != "" {
		return false
	}
	var source map[string]json.RawMessage
	if json.Unmarshal(e.ValueFrom, &source) != nil || len(source) != 1 {
		return false
	}
	var ref fieldRef
	if json.Unmarshal(source["fieldRef"], &ref) != nil {
		return false
	}
	return ref.FieldPath == v.ValueFrom.FieldRef.FieldPath && (ref.APIVersion == "" || ref.APIVersion == "v1")
}

// environment is what a container of a meshed pod must see.
type environment struct {
	// Fields are the variables from fields of the pod; they go first.
	Fields []envVar `json:"fields"`
	// Needed names those of Fields that the proxy's address refers to.
	Needed []string `json:"needed"`
	// Proxy is the URL of the proxy.
	Proxy string `json:"proxy"`
	// Bypass lists what is never sent to the proxy.
	Bypass []string `json:"bypass"`
}

// hostEnvironment is that of host mode, with the host proxy at the given port.
func hostEnvironment(c Config, port int) environment {
	return environment{
		Fields: []envVar{fieldVar(envNodeName, "spec.nodeName"), fieldVar(envHostIP, "status.hostIP")},
		Needed: references(c.HostAddress),
		Proxy:  proxyURL(c.HostAddress, port),
		Bypass: bypass(),
	}
}

func hostPlan(c Config, p ports) plan { return plan{Env: new(hostEnvironment(c, p.Outgoing))} }

// sidecarEnvironment is that of an app beside its sidecar.
func sidecarEnvironment(c Config, port int) environment {
	env := environment{
		Needed: references(c.SidecarAddress),
		Proxy:  proxyURL(c.SidecarAddress, port),
		Bypass: bypass(),
	}
	if len(env.Needed) > 0 { // Validate allows no other than the pod's IP
		env.Fields = []envVar{fieldVar(envPodIP, "status.podIP")}
	}
	return env
}

// proxyURL has a scheme, because not every HTTP library takes a bare host and port.
func proxyURL(address string, port int) string {
	return "http://" + address + ":" + strconv.Itoa(port)
}

// bypass lists the hosts that must not be reached through a proxy:
//   - the container itself;
//   - the metadata services of clouds. They answer with the credentials of whoever asks, which through a host
//     proxy would be the node;
//   - the Kubernetes API. Its variable is set by the kubelet in every container, ahead of env.
//
// It names no suffix like .svc, which would take the whole mesh out, and no CIDR, which half of the HTTP
// libraries do not read.
func bypass() []string {
	return []string{
		"localhost", "127.0.0.1", "::1",
		"169.254.169.254",                // AWS, Azure, Google, OpenStack and others
		"fd00:ec2::254",                  // AWS over IPv6
		"169.254.170.2",                  // AWS ECS tasks
		"169.254.170.23", "fd00:ec2::23", // AWS EKS pod identity
		"metadata.google.internal",         // Google by name
		"168.63.129.16", "100.100.100.200", // Azure's host, Alibaba
		"kubernetes", "kubernetes.default",
		"kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
		"$(KUBERNETES_SERVICE_HOST)",
	}
}

// envResult is what was done to one container.
type envResult struct {
	left     bool     // the container has a proxy of its own
	warnings []string // each about this container
	taken    string   // the name of a variable that is in the way; nothing was written then
}

// apply writes to p what makes the environment of container c, at path, the wanted one.
func (want environment) apply(p *patch, path string, c containerView) envResult {
	var res envResult
	warn := func(format string, args ...any) {
		res.warnings = append(res.warnings, fmt.Sprintf("container %q ", c.Name)+fmt.Sprintf(format, args...))
	}

	proxies := []envVar{literalVar("http_proxy", want.Proxy), literalVar("HTTP_PROXY", want.Proxy)}
	for _, v := range proxies {
		if i := slices.IndexFunc(c.Env, func(e envView) bool { return e.Name == v.Name && !v.is(e) }); i >= 0 {
			warn("defines %s itself and is left alone: its requests do not go through the mesh", v.Name)
			res.left = true
			return res
		}
	}

	var front []envVar
	for _, v := range want.Fields {
		if !slices.ContainsFunc(c.Env, func(e envView) bool { return e.Name == v.Name && !v.is(e) }) {
			front = append(front, v)
			continue
		}
		if slices.Contains(want.Needed, v.Name) || strings.HasPrefix(v.Name, "TULLE_") {
			res.taken = v.Name
			return res
		}
		warn("defines %s in its own way, which is kept; Tulle's is the field %s", v.Name, v.ValueFrom.FieldRef.FieldPath)
	}
	front = append(front, proxies...)

	edit := envEdit{patch: p, path: path, entries: slices.Clone(c.Env)}
	front = append(front, want.mergeBypass(&edit, warn)...)
	edit.putInFront(front)
	return res
}

// mergeBypass extends the user's own no_proxy and NO_PROXY where they stand. It returns those that are to be
// added in front, because the user has neither.
func (want environment) mergeBypass(edit *envEdit, warn func(string, ...any)) []envVar {
	last := map[string]int{} // the kubelet takes the last entry of a name
	for i, e := range edit.entries {
		if e.Name != "no_proxy" && e.Name != "NO_PROXY" {
			continue
		}
		last[e.Name] = i
		if !e.literal() {
			warn("takes %s from elsewhere, so it cannot be extended here; it should hold 169.254.169.254 and kubernetes.default.svc", e.Name)
			continue
		}
		for _, host := range splitList(e.Value) {
			if host == "*" || isServiceSuffix(host) {
				warn("has %q in %s: requests to Services in this form do not go through the mesh", host, e.Name)
			}
		}
		if merged := mergeList(e.Value, want.Bypass); merged != e.Value {
			edit.setValue(i, merged)
		}
	}
	lower, hasLower := last["no_proxy"]
	upper, hasUpper := last["NO_PROXY"]
	switch {
	case !hasLower && !hasUpper:
		list := strings.Join(want.Bypass, ",")
		return []envVar{literalVar("no_proxy", list), literalVar("NO_PROXY", list)}
	case hasLower && !hasUpper:
		edit.mirror(lower, "NO_PROXY")
	case hasUpper && !hasLower:
		edit.mirror(upper, "no_proxy")
	}
	return nil
}

// envEdit edits the entries of one environment, and writes each step down as a patch operation. It keeps
// the entries in step, so that every index it writes is right for the moment it is applied.
type envEdit struct {
	patch   *patch
	path    string // of the container
	entries []envView
}

func (e *envEdit) at(i int) string { return e.path + "/env/" + strconv.Itoa(i) }

func (e *envEdit) setValue(i int, value string) {
	// "add" on an existing member replaces it; the entry may lack a value, which means an empty one.
	e.patch.add(e.at(i)+"/value", value)
	e.entries[i].Value = value
}

func (e *envEdit) insert(i int, v envVar) {
	e.patch.add(e.at(i), v)
	view := envView{Name: v.Name, Value: v.Value}
	if v.ValueFrom != nil {
		view.ValueFrom, _ = json.Marshal(v.ValueFrom) // a struct of strings: cannot fail
	}
	e.entries = slices.Insert(e.entries, i, view)
}

func (e *envEdit) delete(i int) {
	e.patch.remove(e.at(i))
	e.entries = slices.Delete(e.entries, i, i+1)
}

// mirror adds a variable with the value of entry i, right behind it, where whatever that value refers to is
// defined as well. An entry that is no text is not mirrored.
func (e *envEdit) mirror(i int, name string) {
	if e.entries[i].literal() {
		e.insert(i+1, literalVar(name, e.entries[i].Value))
	}
}

// putInFront makes front the beginning of the environment, moving what is there already.
func (e *envEdit) putInFront(front []envVar) {
	if len(e.entries) == 0 {
		if len(front) > 0 {
			e.patch.add(e.path+"/env", front)
		}
		return
	}
	if e.begins(front) {
		return
	}
	for i := len(e.entries) - 1; i >= 0; i-- {
		if slices.ContainsFunc(front, func(v envVar) bool { return v.Name == e.entries[i].Name }) {
			e.delete(i)
		}
	}
	for i, v := range front {
		e.insert(i, v)
	}
}

// begins reports whether the environment begins with front and holds nothing of it later.
func (e *envEdit) begins(front []envVar) bool {
	if len(e.entries) < len(front) {
		return false
	}
	for i, v := range front {
		if !v.is(e.entries[i]) {
			return false
		}
	}
	return !slices.ContainsFunc(e.entries[len(front):], func(entry envView) bool {
		return slices.ContainsFunc(front, func(v envVar) bool { return v.Name == entry.Name })
	})
}

// splitList splits the value of a no_proxy: libraries take commas and spaces.
func splitList(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || unicode.IsSpace(r) })
}

// mergeList appends to list, whose text is kept, the elements of more that it lacks.
func mergeList(list string, more []string) string {
	have := splitList(list)
	for _, host := range more {
		if slices.Contains(have, host) {
			continue
		}
		if trimmed := strings.TrimRightFunc(list, unicode.IsSpace); trimmed != "" && !strings.HasSuffix(trimmed, ",") {
			list += ","
		}
		list += host
	}
	return list
}

// isServiceSuffix reports whether a no_proxy entry takes all Services of the cluster out of the mesh.
func isServiceSuffix(host string) bool {
	switch strings.TrimPrefix(strings.TrimPrefix(host, "*"), ".") {
	case "svc", "svc.cluster.local", "cluster.local", "local":
		return true
	}
	return false
}
