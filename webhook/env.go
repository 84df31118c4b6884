package webhook

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

const (
	envNodeName = "NODE_NAME"
	envHostIP   = "TULLE_HOST_IP"
	envPodIP    = "TULLE_POD_IP"
	envMode     = "TULLE_MODE" // of the proxy itself
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

// fieldOf returns the variable of that name, if it is one of ours that takes its value from a field of the pod.
func fieldOf(name string) (envVar, bool) {
	var path string
	switch name {
	case envNodeName:
		path = "spec.nodeName"
	case envHostIP:
		path = "status.hostIP"
	case envPodIP:
		path = "status.podIP"
	default:
		return envVar{}, false
	}
	return envVar{Name: name, ValueFrom: &envSource{fieldRef{APIVersion: "v1", FieldPath: path}}}, true
}

func fields(names ...string) []envVar {
	var all []envVar
	for _, name := range names {
		v, _ := fieldOf(name)
		all = append(all, v)
	}
	return all
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

func (v envVar) view() envView {
	view := envView{Name: v.Name, Value: v.Value}
	if v.ValueFrom != nil {
		view.ValueFrom = v.ValueFrom.appendTo(nil)
	}
	return view
}

// environment is what a container of a meshed pod must see.
type environment struct {
	// Fields are the variables from fields of the pod; they go first.
	Fields []envVar `json:"fields"`
	// Needed names those of Fields that the proxy's address refers to.
	Needed []string `json:"needed"`
	// Proxy is the URL of the proxy.
	Proxy string `json:"proxy"`
	// Bypass is what is never sent to the proxy, as the value of no_proxy.
	Bypass string `json:"bypass"`
}

// hostPlan is what host mode adds to a pod.
func hostPlan(c Config, p ports) plan { return plan{Env: new(hostEnvironment(c, p.Outgoing))} }

// hostEnvironment is that of host mode, with the host proxy at the given port.
func hostEnvironment(c Config, port int) environment {
	address := c.hostAddress()
	return environment{
		Fields: fields(envNodeName, envHostIP),
		Needed: references(address),
		Proxy:  proxyURL(address, port),
		Bypass: bypass,
	}
}

// sidecarEnvironment is that of an app beside its sidecar.
func sidecarEnvironment(c Config, port int) environment {
	env := environment{
		Needed: references(c.SidecarAddress),
		Proxy:  proxyURL(c.SidecarAddress, port),
		Bypass: bypass,
	}
	if len(env.Needed) > 0 { // Validate allows no other than the pod's IP
		env.Fields = fields(envPodIP)
	}
	return env
}

// proxyURL has a scheme, because not every HTTP library takes a bare host and port.
func proxyURL(address string, port int) string {
	return "http://" + address + ":" + strconv.Itoa(port)
}

// bypassHosts are the hosts that are never sent to the proxy, and never changed:
//
//   - the container itself;
//   - the metadata services of clouds, which answer with the credentials of whoever asks: through a proxy
//     those would be the node's;
//   - the Kubernetes API. Its variable is set by the kubelet in every container, ahead of env.
//
// It names no suffix like .svc, which would take the whole mesh out, and no CIDR, which half of the HTTP
// libraries do not read. The pod's own address is not among them: it would take one more variable, and the
// proxy delivers to it as well.
//
// What is taken off this list must stay known to onlyBypass, for the pods that have it.
var bypassHosts = []string{
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

// bypass is bypassHosts as the value of no_proxy.
var bypass = strings.Join(bypassHosts, ",")

// chainUser begins the user of the proxy's URL where the rest of it is the proxy behind, in base64.
const chainUser = "chain-"

// maxChain is how long the URL of the proxy behind may be, as package router has it.
const maxChain = 2 << 10

// chained is the URL by which the proxy at proxy is asked to go through the one at behind.
func chained(proxy, behind string) string {
	return "http://" + chainUser + base64.RawURLEncoding.EncodeToString([]byte(behind)) + "@" + strings.TrimPrefix(proxy, "http://")
}

// unchained returns the proxy behind, if value is a URL that chained makes of proxy.
func unchained(value, proxy string) (behind string, ok bool) {
	rest, ok := strings.CutPrefix(value, "http://"+chainUser)
	if !ok {
		return "", false
	}
	encoded, address, ok := strings.Cut(rest, "@")
	if !ok || "http://"+address != proxy {
		return "", false
	}
	text, err := base64.RawURLEncoding.DecodeString(encoded)
	return string(text), err == nil
}

// canChain reports whether the value of a proxy variable is one that the proxy can go through.
func canChain(e envView) bool {
	if !e.literal() || len(references(e.Value)) > 0 {
		return false
	}
	u, err := url.Parse(e.Value)
	if err != nil || len(e.Value) > maxChain || strings.ContainsFunc(u.Host, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return false // the proxy would refuse every request
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return false
		}
	}
	return u.Scheme == "http" && u.Hostname() != "" && (u.Path == "" || u.Path == "/") && u.RawQuery == "" && u.Fragment == ""
}

// envResult is what was done to one container.
type envResult struct {
	left     string   // why the container is left alone; empty if it is not
	denied   *Result  // nothing was written then
	warnings []string // each about this container
	undo     EnvUndo
}

// apply writes to edit what makes the environment of container c the wanted one; edit has a copy of it. Where the
// user has a proxy already, conflict says what to do.
func (want *environment) apply(edit *envEdit, c containerView, conflict string) envResult {
	var res envResult
	warn := func(format string, args ...any) {
		res.warnings = append(res.warnings, fmt.Sprintf("container %q ", c.Name)+fmt.Sprintf(format, args...))
	}

	proxies := []envVar{literalVar("http_proxy", want.Proxy), literalVar("HTTP_PROXY", want.Proxy)}
	if name := foreign(edit.entries, proxies); name != "" {
		if conflict == ConflictLeave {
			warn("defines %s itself and is left alone: its requests do not go through the mesh", name)
			res.left = "it defines " + name + " itself"
			return res
		}
		if proxies, res.denied = want.replace(edit, c, conflict, proxies, &res.undo); res.denied != nil {
			return res
		}
	}

	front := make([]envVar, 0, spare)
	for _, v := range want.Fields {
		if !slices.ContainsFunc(edit.entries, func(e envView) bool { return e.Name == v.Name && !v.is(e) }) {
			front = append(front, v)
			continue
		}
		if slices.Contains(want.Needed, v.Name) || strings.HasPrefix(v.Name, "TULLE_") {
			res.denied = denial(EnvTaken, fmt.Sprintf("container %q defines %s in its own way, but Tulle needs it to find the proxy", c.Name, v.Name),
				fmt.Sprintf("remove the variable, or keep the pod out with the label %s: \"false\"", LabelInject))
			return res
		}
		warn("defines %s in its own way, which is kept; Tulle's is the field %s", v.Name, v.ValueFrom.FieldRef.FieldPath)
	}
	front = append(front, proxies...)
	front = append(front, want.mergeBypass(edit, &res.undo, warn)...)
	edit.putInFront(front, c.Env, &res.undo)
	want.notice(c, warn)
	return res
}

// foreign returns the name of a proxy variable that has another value than ours.
func foreign(entries []envView, proxies []envVar) string {
	for _, v := range proxies {
		if slices.ContainsFunc(entries, func(e envView) bool { return e.Name == v.Name && !v.is(e) }) {
			return v.Name
		}
	}
	return ""
}

// replace puts our proxy where the user has one, in front of it or instead of it. It returns those of proxies that
// are still to be added.
func (want *environment) replace(edit *envEdit, c containerView, conflict string, proxies []envVar, undo *EnvUndo) ([]envVar, *Result) {
	var missing []envVar
	value := want.Proxy
	for _, v := range proxies {
		at := -1
		for i, e := range edit.entries {
			if e.Name != v.Name {
				continue
			}
			if at >= 0 {
				return nil, denial(EnvTaken, fmt.Sprintf("container %q defines %s twice, so it cannot be replaced", c.Name, v.Name), "remove one of the two")
			}
			at = i
		}
		if at < 0 || v.is(edit.entries[at]) {
			missing = append(missing, v)
			continue
		}
		e := edit.entries[at]
		if conflict == ConflictChain {
			if !canChain(e) {
				return nil, denial(CannotChain, fmt.Sprintf("container %q has a value in %s that %s: %s cannot follow, allowed: the text of a URL like http://proxy.example:3128", c.Name, e.Name, AnnotationOnConflict, ConflictChain),
					fmt.Sprintf("write the proxy's URL in the container's env, or use %s: %s or %s", AnnotationOnConflict, ConflictLeave, ConflictOverride))
			}
			value = chained(want.Proxy, e.Value)
		}
		if undo.Was == nil {
			undo.Was = map[string]FormerEnv{}
		}
		if conflict == ConflictChain {
			undo.Was[v.Name] = FormerEnv{Chained: true} // the value, which may hold a password, is written down once
		} else {
			undo.Was[v.Name] = FormerEnv{Value: e.Value, ValueFrom: e.ValueFrom}
		}
		edit.replace(at, FormerEnv{Value: value})
	}
	for i, v := range missing {
		if edit.index(v.Name) < 0 { // the spelling that the user left out leads the same way
			missing[i].Value = value
		}
	}
	return missing, nil
}

// mergeBypass extends the user's own no_proxy and NO_PROXY where they stand. It returns those that are to be
// added in front, because the user has neither.
func (want *environment) mergeBypass(edit *envEdit, undo *EnvUndo, warn func(string, ...any)) []envVar {
	lower, upper := -1, -1 // the kubelet takes the last entry of a name
	for i, e := range edit.entries {
		switch e.Name {
		case "no_proxy":
			lower = i
		case "NO_PROXY":
			upper = i
		}
	}
	for _, i := range []int{lower, upper} {
		if i < 0 {
			continue
		}
		e := edit.entries[i]
		if !e.literal() {
			warn("takes %s from elsewhere, so it cannot be extended here; it should hold 169.254.169.254 and kubernetes.default.svc", e.Name)
			continue
		}
		for _, host := range splitList(e.Value) {
			if host == "*" || isServiceSuffix(host) {
				warn("has %s in %s: requests to Services in this form do not go through the mesh", quote(host), e.Name)
				break
			}
		}
		if merged := mergeList(e.Value, bypassHosts); merged != e.Value {
			if undo.Grown == nil {
				undo.Grown = map[string]int{}
			}
			undo.Grown[e.Name] = len(e.Value)
			edit.setValue(i, merged)
		}
	}
	switch {
	case lower < 0 && upper < 0:
		return []envVar{literalVar("no_proxy", want.Bypass), literalVar("NO_PROXY", want.Bypass)}
	case upper < 0:
		edit.mirror(lower, "NO_PROXY", undo)
	case lower < 0:
		edit.mirror(upper, "no_proxy", undo)
	}
	return nil
}

// notice warns about what else decides where the container's requests go.
func (want *environment) notice(c containerView, warn func(string, ...any)) {
	var names []string
	for _, e := range c.Env {
		switch e.Name {
		case "grpc_proxy", "GRPC_PROXY", "all_proxy", "ALL_PROXY", "https_proxy", "HTTPS_PROXY":
			if e.Value != "" || !e.literal() {
				names = append(names, e.Name)
			}
		}
	}
	if len(names) > 0 {
		warn("defines %s: where a library prefers that to http_proxy, as gRPC does, its requests do not go through the mesh", strings.Join(names, ", "))
	}
	for _, from := range c.EnvFrom {
		// A proxy that comes this way cannot be seen here, and Tulle's beats it. To warn of every map would be
		// noise, so only those that are called so.
		if name := from.source(); strings.Contains(strings.ToLower(name), "proxy") {
			warn("takes variables from %s: a proxy among them gives way to Tulle's; to keep it, write it in env", quote(name))
		}
	}
}

// spare is how many entries an environment may gain before its copy has to grow.
const spare = 8

// copied returns a copy of entries, with room for ours.
func copied(entries []envView) []envView {
	return append(make([]envView, 0, len(entries)+spare), entries...)
}

// envEdit edits the entries of one environment, and writes each step down as a patch operation. It keeps
// the entries in step, so that every index it writes is right for the moment it is applied. Without a patch
// it edits only.
type envEdit struct {
	patch   *patch
	path    string // of the container
	entries []envView
}

func (e *envEdit) at(i int) string { return e.path + "/env/" + strconv.Itoa(i) }

// index returns the index of the last entry of that name, which is the one that counts, or -1.
func (e *envEdit) index(name string) int {
	for i := len(e.entries) - 1; i >= 0; i-- {
		if e.entries[i].Name == name {
			return i
		}
	}
	return -1
}

func (e *envEdit) add(path string, value any) {
	if e.patch != nil {
		e.patch.add(path, value)
	}
}

func (e *envEdit) remove(path string) {
	if e.patch != nil {
		e.patch.remove(path)
	}
}

func (e *envEdit) setValue(i int, value string) {
	// "add" on an existing member replaces it; the entry may lack a value, which means an empty one.
	if e.patch != nil {
		e.patch.add(e.at(i)+"/value", value)
	}
	e.entries[i].Value = value
}

// replace gives entry i another value, of whichever kind.
func (e *envEdit) replace(i int, v FormerEnv) {
	from := envView{ValueFrom: v.ValueFrom}
	switch {
	case from.literal():
		if !e.entries[i].literal() {
			e.remove(e.at(i) + "/valueFrom")
		}
		e.setValue(i, v.Value)
		e.entries[i].ValueFrom = nil
	default:
		if e.entries[i].literal() {
			e.remove(e.at(i) + "/value")
		}
		e.add(e.at(i)+"/valueFrom", v.ValueFrom)
		e.entries[i].Value, e.entries[i].ValueFrom = "", v.ValueFrom
	}
}

func (e *envEdit) insert(i int, v envVar) {
	if e.patch != nil {
		e.patch.add(e.at(i), v)
	}
	e.entries = slices.Insert(e.entries, i, v.view())
}

// move takes entry from out and puts it back at index to.
func (e *envEdit) move(from, to int) {
	if e.patch != nil {
		e.patch.move(e.at(from), e.at(to))
	}
	entry := e.entries[from]
	e.entries = slices.Insert(slices.Delete(e.entries, from, from+1), to, entry)
}

// mirror adds a variable with the value of entry i, right behind it, where whatever that value refers to is
// defined as well. An entry that is no text is not mirrored.
func (e *envEdit) mirror(i int, name string, undo *EnvUndo) {
	if e.entries[i].literal() {
		e.insert(i+1, literalVar(name, e.entries[i].Value))
		undo.Added = append(undo.Added, name)
	}
}

// putInFront makes front the beginning of the environment, moving what is there already.
func (e *envEdit) putInFront(front []envVar, original []envView, undo *EnvUndo) {
	if len(e.entries) == 0 {
		for _, v := range front {
			e.entries = append(e.entries, v.view())
			undo.Added = append(undo.Added, v.Name)
		}
		e.add(e.path+"/env", front)
		return
	}
	for to, v := range front {
		named := func(entry envView) bool { return entry.Name == v.Name }
		switch from := slices.IndexFunc(e.entries, named); {
		case from < 0:
			e.insert(to, v)
			undo.Added = append(undo.Added, v.Name)
		case from > to:
			if undo.Moved == nil {
				undo.Moved = map[string]int{}
			}
			undo.Moved[v.Name] = slices.IndexFunc(original, named)
			e.move(from, to)
		}
	}
}

// same reports whether two environments are equal.
func same(a, b []envView) bool {
	return slices.EqualFunc(a, b, func(x, y envView) bool {
		if x.Name != y.Name || x.Value != y.Value || x.literal() != y.literal() {
			return false
		}
		if x.literal() || bytes.Equal(x.ValueFrom, y.ValueFrom) {
			return true
		}
		var v, w any // the same text spaced or ordered in another way
		return json.Unmarshal(x.ValueFrom, &v) == nil && json.Unmarshal(y.ValueFrom, &w) == nil && reflect.DeepEqual(v, w)
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
