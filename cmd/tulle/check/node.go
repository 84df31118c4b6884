package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
)

// answer is what came back of a request through the API server to a port of a pod.
type answer struct {
	status int
	header http.Header
	body   string
}

// tooMany is more than server.maxCallDepth can be: a proxy answers that itself, and asks nobody (T104).
var tooMany = strings.TrimSuffix(strings.Repeat("1.1 x,", 1001), ",")

// nodes reaches, through the API server, for the ports of the host proxies. With the host's network these are the ports of
// the nodes; but the way there is the control plane's. What pods of a node are kept from, by rules of its network, is not
// seen from there; [checker.reach] sees it.
func (c *checker) nodes(ctx context.Context) {
	var hosts []corev1.Pod
	for _, p := range c.hosts {
		if ready(&p) && p.DeletionTimestamp == nil {
			hosts = append(hosts, p)
		}
	}
	if len(hosts) == 0 {
		c.pass("there is no host proxy to reach for")
		return
	}
	verdicts := make([]struct{ admin, outgoing verdict }, len(hosts))
	each(len(hosts), func(i int) {
		verdicts[i].admin = c.admin(ctx, &hosts[i])
		verdicts[i].outgoing = c.outgoing(ctx, &hosts[i])
	})
	for _, port := range []struct {
		code Code
		name string
		of   func(i int) verdict
	}{
		{AdminSilent, "admin", func(i int) verdict { return verdicts[i].admin }},
		{PortSilent, "outgoing", func(i int) verdict { return verdicts[i].outgoing }},
	} {
		good := 0
		unreached := map[string][]string{}
		for i := range hosts {
			v := port.of(i)
			switch {
			case v.unknown != nil:
				unreached[v.unknown.Error()] = append(unreached[v.unknown.Error()], hosts[i].Spec.NodeName)
			case v.wrong != "":
				c.find(Finding{Code: port.code, Object: "pod/" + hosts[i].Name, Namespace: c.mesh, Message: fmt.Sprintf("on node %s, port %s: %s", hosts[i].Spec.NodeName, v.port, v.wrong),
					Fix: kubectl(c.mesh, "logs", hosts[i].Name) + "\n" + kubectl(c.mesh, "delete", "pod "+hosts[i].Name)})
			default:
				good++
			}
		}
		if good > 0 {
			c.pass("on %s the proxy answers the control plane at its %s port, %s%s", count(good, "node"), port.name, port.of(0).port, c.instead(port.code))
		}
		for why, nodes := range unreached {
			slices.Sort(nodes)
			c.skip(fmt.Sprintf("the %s port of the proxy on %s", port.name, some(nodes)), errors.New(why+c.instead(port.code)))
		}
	}
}

// instead points to the check that goes the way of pods, where that was not asked for.
func (c *checker) instead(code Code) string {
	if code != PortSilent || c.fromNodes {
		return ""
	}
	return " (from pods of the nodes: --from-nodes)"
}

// verdict is what is known of a port. If unknown is set, nothing is.
type verdict struct {
	port    string
	wrong   string
	unknown error
}

// admin asks a proxy whether it is ready.
func (c *checker) admin(ctx context.Context, p *corev1.Pod) verdict {
	v := verdict{port: port(p, "TULLE_ADMIN", "9990")}
	a, err := c.through(ctx, p, v.port, "admin/ready", nil)
	switch {
	case err != nil:
		v.wrong, v.unknown = unreachable(err)
	case a.status != http.StatusOK:
		v.wrong = fmt.Sprintf("the proxy is not ready: %s", strings.TrimSpace(a.body))
	}
	return v
}

// outgoing sees whether it is a proxy of ours that listens where pods send their requests.
func (c *checker) outgoing(ctx context.Context, p *corev1.Pod) verdict {
	v := verdict{port: port(p, "TULLE_OUTGOING", "4140")}
	a, err := c.through(ctx, p, v.port, "", http.Header{"Via": {tooMany}})
	switch {
	case err != nil:
		v.wrong, v.unknown = unreachable(err)
	case a.header.Get("Tulle-Code") == "" && a.header.Get("L5d-Err") == "":
		v.wrong = fmt.Sprintf("something answers that is no proxy of Tulle (status %d)", a.status)
	}
	return v
}

// port is the one that a setting of the host proxy names.
func port(p *corev1.Pod, env, otherwise string) string {
	for _, c := range p.Spec.Containers {
		for _, e := range c.Env {
			if e.Name == env {
				if i := strings.LastIndexByte(e.Value, ':'); i >= 0 {
					return e.Value[i+1:]
				}
			}
		}
	}
	return otherwise
}

// apiError is an answer of the API server itself.
type apiError struct {
	status int
	text   string
}

func (e *apiError) Error() string { return e.text }

// through sends a GET through the API server to a port of a pod.
func (c *checker) through(ctx context.Context, p *corev1.Pod, port, path string, header http.Header) (answer, error) {
	client, ok := c.client.CoreV1().RESTClient().(*rest.RESTClient)
	if !ok {
		return answer{}, errors.New("this client cannot reach through the API server")
	}
	at := client.Get().Namespace(p.Namespace).Resource("pods").Name("http:" + p.Name + ":" + port).SubResource("proxy").Suffix(path).URL()
	if path == "" {
		at.Path += "/"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return answer{}, err
	}
	for key, values := range header {
		request.Header[key] = values
	}
	response, err := client.Client.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	const most = 4 << 10
	body, err := io.ReadAll(io.LimitReader(response.Body, most))
	if err != nil {
		return answer{}, err
	}
	a := answer{response.StatusCode, response.Header, string(body)}
	if response.Header.Get("Audit-Id") != "" && strings.Contains(a.body, `"kind":"Status"`) || strings.HasPrefix(a.body, "error trying to reach service:") || strings.HasPrefix(a.body, "Error trying to reach service:") {
		return a, &apiError{a.status, a.body}
	}
	return a, nil
}

// unreachable says what it means that a port was not reached. Only a refusal is the node's own word.
func unreachable(err error) (wrong string, unknown error) {
	var said *apiError
	switch {
	case errors.As(err, &said) && said.status == http.StatusForbidden:
		return "", errors.New("you may not get pods/proxy")
	case errors.As(err, &said) && strings.Contains(said.text, "connection refused"):
		return "nothing listens there: connection refused", nil
	}
	return "", fmt.Errorf("the control plane does not get there, which says nothing about pods: %s", strings.Join(strings.Fields(err.Error()), " "))
}
