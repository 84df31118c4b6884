// Package webhook is the injector: it decides for each new pod whether it joins the mesh and in which
// mode, and writes the JSON patch that makes it so.
//
// (At the side, [Server] also answers the API server about DTabs, with what others say is wrong with them.)
//
// The heart is [Inject], a pure function of the pod's JSON, its namespace and a [Config]. It reads nothing
// else and calls nobody, so the admission webhook ([Server]), the command line and the demo give the same
// answer for the same pod. Package webhook does not watch Kubernetes, keep certificates or serve TLS:
// the controller does that around it.
//
// What each mode adds:
//
//   - host: the environment variables NODE_NAME, TULLE_HOST_IP, http_proxy, HTTP_PROXY, no_proxy and NO_PROXY,
//     in this order, in front of the environment of every container and init container;
//   - sidecar: the container "tulle-proxy" and the volume with its token. It is a native sidecar, before the pod's
//     init containers; where kubelets do not know those it is the first container, with hooks that keep the same
//     order. Every container that runs beside it gets the four proxy variables, pointing at the sidecar; or, with
//     tulle.dev/capture: redirect, none, and the pod gets the init container "tulle-redirect".
//
// Both add the pod label tulle.dev/mode and the annotation tulle.dev/status, which records what was added.
//
// Invariants, each held by a property test:
//
//   - The patch only touches what is ours. It is computed against the original JSON, never by writing a
//     container back from a Go type, so fields this version has never heard of survive.
//   - Injecting twice is injecting once: the second patch is empty. Should another webhook have added a
//     container in between, the second pass adds what that container lacks and nothing else.
//   - No name is added twice to an environment, and every $(VARIABLE) written refers to an earlier entry,
//     because the kubelet expands nothing else.
//   - A pod that passes Pod Security "restricted" still passes it, without a redirect.
//   - A pod keeps its quality of service, unless its annotations ask for another.
//
// Rules for variables the user has set already:
//
//   - http_proxy or HTTP_PROXY with another value: the container is the user's, it is left alone and a
//     warning says so. (A value from envFrom cannot be seen here, and an entry in env beats it.)
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
