package hostpolicy

import (
	"encoding/json"
	"fmt"
	"iter"
	"strconv"
	"strings"

	admission "k8s.io/api/admissionregistration/v1"

	"github.com/tulle-mesh/tulle/webhook"
)

// answer is what host mode gives to every pod of a mesh. All texts are literals of CEL, which reads JSON's.
type answer struct {
	proxy, hash string
	mode        string   // default mode
	ports       []string // the numbers of the outgoing, incoming and admin port
	env         []string // names of the variables, in their order; no literals
	bypass      []string // what no_proxy holds; no literals
}

// literal writes a literal of CEL.
func literal(s string) string {
	text, _ := json.Marshal(s) // a string: cannot fail
	return string(text)
}

func list(elements []string) string {
	var all []string
	for _, e := range elements {
		all = append(all, literal(e))
	}
	return "[" + strings.Join(all, ", ") + "]"
}

// elements is a regular expression for the elements of a no_proxy, between commas and what Go takes for spaces.
const elements = `r'[^,\t\n\v\f\r\x{85}\pZ]+'`

// asides are annotations that mean something to a sidecar only. Their values are not judged in CEL.
func asides() []string {
	return []string{
		webhook.AnnotationSkipPorts, webhook.AnnotationOpaquePorts,
		webhook.AnnotationCPURequest, webhook.AnnotationCPULimit, webhook.AnnotationMemoryRequest, webhook.AnnotationMemoryLimit,
	}
}

// variables are the variables of the policy, each of which may refer to those before it. The API server evaluates
// those that are used.
func (a answer) variables() []admission.Variable {
	var plain []string
	for _, condition := range a.plainAnnotations() {
		plain = append(plain, condition)
	}
	var all []admission.Variable
	v := func(name, expression string) {
		all = append(all, admission.Variable{Name: name, Expression: strings.TrimSpace(expression)})
	}
	v("proxy", a.proxy)
	v("hash", a.hash)
	v("bypass", list(a.bypass))
	v("annotations", `object.metadata.?annotations.orValue({})`)
	v("labels", `object.metadata.?labels.orValue({})`)
	v("mode", modeOf(a.mode))
	v("windows", windows)
	v("skip", skip)

	// The pod as an earlier pass has left it, if there was one.
	v("status", `string(variables.annotations[?'tulle.dev/status'].orValue(''))`)
	v("earlier", `variables.status.matches(`+a.grammar("variables.hash")+`)`)
	v("had", `!variables.earlier ? [] : variables.status.find(r'"containers":\[[^\]]*\]').findAll(r'"[a-z0-9-]+"[,\]]').map(n, n.substring(1, n.size() - 2))`)

	v("containers", `
object.spec.?initContainers.orValue([]).transformList(i, c, {
  'path': dyn('/spec/initContainers/' + string(i) + '/env'), 'name': dyn(c.name), 'env': dyn(c.?env.orValue([])),
  'undo': dyn(c.name in variables.had ? variables.status.find(`+undoOf("c.name")+`) : '')
}) +
object.spec.containers.transformList(i, c, {
  'path': dyn('/spec/containers/' + string(i) + '/env'), 'name': dyn(c.name), 'env': dyn(c.?env.orValue([])),
  'undo': dyn(c.name in variables.had ? variables.status.find(`+undoOf("c.name")+`) : '')
})`)

	// Their environments without what the earlier pass has given them, as far as they still have it; gone are the places of
	// that. Intact are those that need nothing. Where that pass did more than putting something in front, all of it stays.
	v("plain", `
variables.containers.map(c, {
  'path': c.path, 'name': c.name, 'undo': c.undo, 'was': c.env,
  'gone': dyn(!(c.name in variables.had) || c.undo != '' ? [] : c.env.transformList(i, e,
    e.name == 'NODE_NAME' && `+isField("e", "spec.nodeName")+` ||
    e.name == 'TULLE_HOST_IP' && `+isField("e", "status.hostIP")+` ||
    e.name in ['http_proxy', 'HTTP_PROXY'] && !has(e.valueFrom) && e.?value.orValue('') == variables.proxy ||
    e.name in ['no_proxy', 'NO_PROXY'] && !has(e.valueFrom) && (
      e.?value.orValue('').findAll(`+elements+`).all(h, h in variables.bypass) ||
      c.env.exists(o, o.name != e.name && o.name in ['no_proxy', 'NO_PROXY'] && !has(o.valueFrom) && o.?value.orValue('') == e.?value.orValue(''))
    ), i))
}).map(c, {
  'path': c.path, 'name': c.name, 'undo': c.undo, 'gone': c.gone,
  'env': dyn(c.gone.size() == 0 ? c.was : c.was.transformList(i, e, !(i in c.gone), e)),
  'intact': dyn(c.gone == [0, 1, 2, 3, 4, 5] && !(c.name in variables.skip) && !(c.name in `+list(webhook.MeshProxies())+`) &&
    c.was.slice(0, 6).map(e, e.name) == `+list(a.env)+` &&
    c.was.slice(4, 6).all(e, e.?value.orValue('') == variables.bypass.join(',')) &&
    !c.was.slice(6, c.was.size()).exists(e, e.name in `+list(a.env)+`))
})`)

	// What becomes of them.
	v("seen", `
variables.plain.map(c, {
  'path': c.path, 'name': c.name, 'undo': c.undo, 'env': c.env, 'intact': c.intact,
  'names': dyn(c.env.map(e, e.name)),
  'mine': dyn(c.env.filter(e, e.name in `+list(a.env)+`))
})`)
	v("kept", `
variables.seen.filter(c, !(c.name in variables.skip) && (
  c.name in `+list(webhook.MeshProxies())+` ||
  c.mine.exists(e, e.name in ['http_proxy', 'HTTP_PROXY'] && !(!has(e.valueFrom) && e.?value.orValue('') == variables.proxy))
)).map(c, string(c.name))`)
	v("given", `
variables.seen.filter(c, !(c.name in variables.skip) && !(c.name in variables.kept)).map(c, {
  'path': c.path, 'name': c.name, 'env': c.env, 'undo': c.undo, 'intact': c.intact,
  'names': c.names, 'mine': c.mine,
  'front': dyn(
    (c.mine.exists(e, e.name == 'NODE_NAME' && !(`+isField("e", "spec.nodeName")+`)) ? [] : ['NODE_NAME']) +
    ['TULLE_HOST_IP', 'http_proxy', 'HTTP_PROXY'] +
    (c.mine.exists(e, e.name in ['no_proxy', 'NO_PROXY']) ? [] : ['no_proxy', 'NO_PROXY'])
  )
})`)
	v("taken", `
variables.given.exists(c, c.mine.exists(e,
  e.name == 'TULLE_HOST_IP' && !(`+isField("e", "status.hostIP")+`) ||
  e.name == 'NODE_NAME' && !(`+isField("e", "spec.nodeName")+`) && variables.proxy.contains('$(NODE_NAME)')
))`)

	// Whether the policy can say what the pod gets.
	v("ours", `
variables.mode == 'host' && !variables.windows && variables.labels[?'tulle.dev/inject'].orValue('true') == 'true' &&
(variables.status == '' || variables.earlier) &&
`+strings.Join(plain, " &&\n")+` &&
(!('tulle.dev/on-conflict' in variables.annotations) || variables.annotations['tulle.dev/on-conflict'] == 'leave' ||
  variables.annotations['tulle.dev/on-conflict'] in ['chain', 'override'] &&
  !variables.plain.exists(c, c.name in variables.kept && !(c.name in `+list(webhook.MeshProxies())+`))) &&
variables.skip.all(n, `+isName+`) &&
!variables.taken`)

	// The user's own no_proxy and NO_PROXY, with what they lack; the last of several counts.
	v("merged", `
variables.given.map(c, {
  'path': c.path, 'name': c.name, 'env': c.env, 'undo': c.undo, 'intact': c.intact, 'names': c.names, 'front': c.front,
  'at': dyn(['no_proxy', 'NO_PROXY'].map(n, c.names.lastIndexOf(n))),
  'values': dyn(['no_proxy', 'NO_PROXY'].map(n,
    c.names.lastIndexOf(n) < 0 || has(c.env[c.names.lastIndexOf(n)].valueFrom) ? '' :
    [string(c.env[c.names.lastIndexOf(n)].?value.orValue(''))].map(text,
      [text.findAll(`+elements+`)].map(have, variables.bypass.filter(h, !(h in have)))[0].join(',') == '' ? text :
      text + (('x' + text).trim() == 'x' || ('x' + text).trim().endsWith(',') ? '' : ',') +
      [text.findAll(`+elements+`)].map(have, variables.bypass.filter(h, !(h in have)))[0].join(',')
    )[0]
  ))
})`)
	v("done", `
variables.merged.map(c, {
  'path': c.path, 'name': c.name, 'names': c.names, 'front': c.front, 'intact': c.intact,
  // Entries of the front that are elsewhere: behind more of the others than belong before them.
  'moved': dyn(c.front.filter(n, n in c.names && c.names.indexOf(n) >
    c.front.slice(0, c.front.indexOf(n)).filter(m, m in c.names && c.names.indexOf(m) < c.names.indexOf(n)).size())),
  // Of no_proxy and NO_PROXY: where it is, its new value, and whether that is to be written.
  'bypass': dyn([0, 1].filter(k, c.at[k] >= 0 && !has(c.env[c.at[k]].valueFrom)).map(k, {
    'name': dyn(['no_proxy', 'NO_PROXY'][k]), 'other': dyn(['NO_PROXY', 'no_proxy'][k]),
    'at': dyn(c.at[k] + c.front.size() - c.front.filter(m, m in c.names && c.names.indexOf(m) < c.at[k]).size()),
    'value': dyn(c.values[k]),
    'had': dyn(bytes(string(c.env[c.at[k]].?value.orValue(''))).size()),
    'grown': dyn(c.values[k] != c.env[c.at[k]].?value.orValue('')),
    'alone': dyn(c.at[1 - k] < 0)
  })),
  'undo': c.undo
})`)
	v("undone", `
variables.done.map(c, c.undo != '' ? string(c.undo) : [{
    'added': dyn(c.bypass.filter(b, b.alone).map(b, b.other) + c.front.filter(n, !(n in c.names))),
    'moved': dyn(['HTTP_PROXY', 'NODE_NAME', 'TULLE_HOST_IP', 'http_proxy'].filter(n, n in c.moved).map(n, '"' + n + '":' + string(c.names.indexOf(n)))),
    'grown': dyn(['NO_PROXY', 'no_proxy'].map(n, c.bypass.filter(b, b.name == n && b.grown)).flatten().map(b, '"' + b.name + '":' + string(b.had)))
  }].map(u, u.added.size() == `+strconv.Itoa(len(a.env))+` && u.moved.size() == 0 && u.grown.size() == 0 ? '' :
    '"' + c.name + '":{' + (
      (u.added.size() == 0 ? [] : ['"added":["' + u.added.join('","') + '"]']) +
      (u.moved.size() == 0 ? [] : ['"moved":{' + u.moved.join(',') + '}']) +
      (u.grown.size() == 0 ? [] : ['"grown":{' + u.grown.join(',') + '}'])
    ).join(',') + '}'
  )[0]
).filter(u, u != '').sort()`)
	v("undo", `
(
  variables.earlier && variables.labels[?'tulle.dev/mode'].orValue('') == 'host' ? variables.status.findAll(r'"label":"[^"]*"') :
  'tulle.dev/mode' in variables.labels ? ['"label":"' + variables.labels['tulle.dev/mode'] + '"'] : []
) + (
  variables.undone.size() == 0 ? [] : ['"env":{' + variables.undone.join(',') + '}']
)`)
	v("record", `
'{"version":"v2","mode":"host","hash":"' + variables.hash + '"' +
(variables.done.size() == 0 ? '' : ',"proxy":"' + variables.proxy + '","env":`+names(a.env)+`,"containers":["' + variables.done.map(c, string(c.name)).join('","') + '"]') +
(variables.kept.size() == 0 ? '' : ',"left":["' + variables.kept.join('","') + '"]') +
(variables.undo.size() == 0 ? '' : ',"undo":{' + variables.undo.join(',') + '}') + '}'`)
	return all
}

// mutation is the patch, empty for pods that are not ours. If such a pod carries what the policy has done to another,
// because somebody has copied that, its status gets a space: it means the same, but the webhook is asked about the pod.
const mutation = `
!variables.ours ? (!variables.earlier ? [] : [JSONPatch{op: 'add', path: '/metadata/annotations/tulle.dev~1status', value: variables.status + ' '}]) :
variables.plain.filter(c, !c.intact).map(c, c.gone.transformList(k, i, JSONPatch{op: 'remove', path: c.path + '/' + string(i - k)})).flatten() +
variables.done.filter(c, !c.intact).map(c,
  c.names.size() == 0 ? [JSONPatch{op: 'add', path: c.path, value: c.front.map(n,
    n == 'NODE_NAME' ? {'name': dyn(n), 'valueFrom': dyn({'fieldRef': {'apiVersion': 'v1', 'fieldPath': 'spec.nodeName'} })} :
    n == 'TULLE_HOST_IP' ? {'name': dyn(n), 'valueFrom': dyn({'fieldRef': {'apiVersion': 'v1', 'fieldPath': 'status.hostIP'} })} :
    {'name': dyn(n), 'value': dyn(n in ['http_proxy', 'HTTP_PROXY'] ? variables.proxy : variables.bypass.join(','))}
  )}] :
  c.front.filter(n, !(n in c.names) || n in c.moved).map(n, n in c.names ?
    JSONPatch{op: 'move', path: c.path + '/' + string(c.front.indexOf(n)), from: c.path + '/' + string(
      c.names.indexOf(n) + c.front.slice(0, c.front.indexOf(n)).filter(m, !(m in c.names) || c.names.indexOf(m) > c.names.indexOf(n)).size())} :
    JSONPatch{op: 'add', path: c.path + '/' + string(c.front.indexOf(n)), value:
    n == 'NODE_NAME' ? {'name': dyn(n), 'valueFrom': dyn({'fieldRef': {'apiVersion': 'v1', 'fieldPath': 'spec.nodeName'} })} :
    n == 'TULLE_HOST_IP' ? {'name': dyn(n), 'valueFrom': dyn({'fieldRef': {'apiVersion': 'v1', 'fieldPath': 'status.hostIP'} })} :
    {'name': dyn(n), 'value': dyn(n in ['http_proxy', 'HTTP_PROXY'] ? variables.proxy : variables.bypass.join(','))}
    }
  ) +
  c.bypass.filter(b, b.grown).map(b, JSONPatch{op: 'add', path: c.path + '/' + string(b.at) + '/value', value: b.value}) +
  c.bypass.filter(b, b.alone).map(b, JSONPatch{op: 'add', path: c.path + '/' + string(b.at + 1), value: {'name': b.other, 'value': b.value} })
).flatten() +
(variables.labels[?'tulle.dev/mode'].orValue('') == 'host' ? [] :
  variables.labels.size() == 0 ? [JSONPatch{op: 'add', path: '/metadata/labels', value: {'tulle.dev/mode': 'host'} }] :
  [JSONPatch{op: 'add', path: '/metadata/labels/tulle.dev~1mode', value: 'host'}]) +
(variables.status == variables.record ? [] :
  variables.annotations.size() == 0 ? [JSONPatch{op: 'add', path: '/metadata/annotations', value: {'tulle.dev/status': variables.record} }] :
  [JSONPatch{op: 'add', path: '/metadata/annotations/tulle.dev~1status', value: variables.record}])`

// modeOf finds the mode of a pod, where def is that of those that choose none.
func modeOf(def string) string {
	return `string('tulle.dev/mode' in variables.annotations ? variables.annotations['tulle.dev/mode'] : namespaceObject.metadata.?labels[?'tulle.dev/mode'].orValue(` + def + `))`
}

// windows is whether the pod asks for Windows: by name, by its node selector, or by each term of its affinity.
const windows = `
object.spec.?os.?name.orValue('') == 'windows' ||
['kubernetes.io/os', 'beta.kubernetes.io/os'].exists(k, object.spec.?nodeSelector[?k].orValue('linux') != 'linux') ||
[object.spec.?affinity.?nodeAffinity.?requiredDuringSchedulingIgnoredDuringExecution.?nodeSelectorTerms.orValue([])].exists(terms,
  terms.size() > 0 && terms.all(t, t.?matchExpressions.orValue([]).exists(e, e.key in ['kubernetes.io/os', 'beta.kubernetes.io/os'] && (
    e.operator == 'In' && !('linux' in e.?values.orValue([])) || e.operator == 'NotIn' && 'linux' in e.?values.orValue([]) || e.operator == 'DoesNotExist'
  )))
)`

// skip are the containers that get no environment.
const skip = `'tulle.dev/skip-containers' in variables.annotations ? variables.annotations['tulle.dev/skip-containers'].split(',').map(n, n.trim()) : []`

// isName is whether n can be the name of a container.
const isName = `n.size() < 64 && n.matches(r'^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')`

// plainAnnotations says, by annotation, under which condition it is one that CEL can follow.
func (a answer) plainAnnotations() iter.Seq2[string, string] {
	return func(yield func(key, condition string) bool) {
		has := func(key, value string) string {
			return fmt.Sprintf("variables.annotations[?'%s'].orValue('%s') == '%s'", key, value, value)
		}
		for i, key := range portKeys() {
			if !yield(key, has(key, a.ports[i])) {
				return
			}
		}
		if !yield(webhook.AnnotationCapture, has(webhook.AnnotationCapture, webhook.CaptureEnv)) {
			return
		}
		for _, key := range asides() {
			if !yield(key, fmt.Sprintf("!('%s' in variables.annotations)", key)) {
				return
			}
		}
	}
}

// isField reports whether variable e of an environment is this field of the pod.
func isField(e, path string) string {
	return e + ".?valueFrom.?fieldRef.?fieldPath.orValue('') == '" + path + "' && " + e + ".valueFrom.fieldRef.?apiVersion.orValue('v1') == 'v1'"
}

// names is a list of names in JSON.
func names(list []string) string {
	text, _ := json.Marshal(list) // strings: cannot fail
	return string(text)
}

// undoOf is a regular expression for what a status says of a container.
func undoOf(name string) string {
	return `'"' + ` + name + ` + '":\\{("added":\\[[^\\]]*\\])?,?("moved":\\{[^}]*\\})?,?("grown":\\{[^}]*\\})?\\}'`
}

// grammar is a regular expression for the statuses that the policy writes; hash is an expression. Others say of
// containers what it does not understand.
func (a answer) grammar(hash string) string {
	const entry = `"[a-z0-9-]+":\{("added":\[[A-Za-z_",]*\])?,?("moved":\{[A-Za-z_":0-9,]*\})?,?("grown":\{[A-Za-z_":0-9,]*\})?\}`
	const names = `\[("[a-z0-9-]+",?)+\]`
	return `'^\\{"version":"v2","mode":"host","hash":"' + ` + hash + ` + r'"(,"proxy":"[^"\\]*","env":\[[A-Za-z_",]*\],"containers":` + names + `)?(,"left":` + names +
		`)?(,"undo":\{("label":"[^"\\]*")?,?("env":\{(` + entry + `,?)+\})?\})?\}$'`
}
