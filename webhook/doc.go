// Package webhook is the injector: it decides for each new pod whether it joins the mesh and in which
// mode, and writes the JSON patch that makes it so.
//
// (At the side, [Server] also answers the API server about DTabs, with what others say is wrong with them.)
//
// The heart is [Inject], a pure function of the pod's JSON, its namespace and a [Config]. It reads nothing
// else and calls nobody, so the admission webhook ([Server]), the command line and the demo give the same
// answer for the same pod. [Explain] says rule by rule how it comes about, from the table that decides (rules.go);
// [Uninject] is its inverse. Package webhook does not watch Kubernetes, keep certificates or serve TLS:
// the controller does that around it. What users are told of it all is docs/injection.md.
//
// What each mode adds:
//
//   - host: the environment variables NODE_NAME, TULLE_HOST_IP, http_proxy, HTTP_PROXY, no_proxy and NO_PROXY,
//     in this order, in front of the environment of every container and init container;
//   - sidecar: the container "tulle-proxy", as first init container or, for old kubelets, as first container, the
//     volume with its token, and the four proxy variables, pointing at the sidecar, in every other container and
//     init container; or, with a redirect, an init container instead of the variables.
//
// Both add the pod label tulle.dev/mode and the annotation tulle.dev/status ([Status]), which records what was added.
//
// Invariants, each held by a property test:
//
//   - The patch only touches what is ours. It is computed against the original JSON, never by writing a
//     container back from a Go type, so fields this version has never heard of survive.
//   - Injecting twice is injecting once: the second patch is empty. Should another webhook have added a
//     container in between, the second pass adds what that container lacks and nothing else.
//   - Uninject(Inject(pod)) is the pod; and to inject a pod that carries another injection is to inject the pod
//     that was there before.
//   - No name is added twice to an environment, and every $(VARIABLE) written refers to an earlier entry,
//     because the kubelet expands nothing else.
//   - A pod that passes Pod Security "restricted" still passes it, but for a redirect, which is refused there.
//   - Answers are bounded, and made in linear time, whatever is asked.
//
// Rules for variables the user has set already:
//
//   - http_proxy or HTTP_PROXY with another value: the container is the user's, it is left alone and a
//     warning says so, unless the annotation tulle.dev/on-conflict says chain or override. (A value from envFrom
//     cannot be seen here, and an entry in env beats it.)
//   - NODE_NAME from the same field: the entry moves to the front, where ours can refer to it. Defined in
//     another way it stays as it is, or the pod is refused if the proxy's address needs it.
//   - no_proxy or NO_PROXY as text: the entry keeps its place and its text, and what is missing is appended;
//     the other spelling is put right behind it with the same value.
//   - TULLE_HOST_IP and TULLE_POD_IP are ours: another definition is refused.
//
// For example:
//
//	res, err := webhook.Inject(raw, webhook.Namespace{Name: "shop", Labels: labels}, cfg)
//	if err == nil && !res.Reason.Denies() {
//		pod = apply(pod, res.Patch) // res.Patch is nil when there is nothing to do
//	}
package webhook
