package dtab

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/client-go/rest"

	"github.com/tulle-mesh/tulle/cmd/tulle/fault"
	"github.com/tulle-mesh/tulle/cmd/tulle/kube"
)

// reach is the way to the namer, as flags and the environment say.
type reach struct {
	namer, token, ca, namespace string
	at                          kube.Flags
}

func (r *reach) flags(f *pflag.FlagSet) {
	f.StringVar(&r.namer, "namer", "", "URL of the namer, such as http://127.0.0.1:4180 (env TULLE_NAMER or NAMERCTL_BASE_URL); without one it is reached through the cluster")
	f.StringVar(&r.token, "token", "", "bearer token for the namer (env TULLE_TOKEN, which others on this machine cannot see)")
	f.StringVar(&r.ca, "ca", "", "file of the CA that an https namer is verified by (env TULLE_NAMER_CA; default: that of the system)")
	f.StringVarP(&r.namespace, "namespace", "n", "tulle", "namespace that Tulle runs in")
	r.at.Add(f)
}

// answerTime bounds a request; the namer itself gives up after a few seconds.
const answerTime = 30 * time.Second

// connect returns a client of the namer, and what closes the way to it. Through the cluster it is
// of the first controller that can be reached, and knows the others.
func (r *reach) connect(ctx context.Context) (c *client, closeWay func(), err error) {
	c, transport := r.client()
	if ca := cmp.Or(r.ca, os.Getenv("TULLE_NAMER_CA")); ca != "" {
		pem, err := os.ReadFile(ca)
		pool := x509.NewCertPool()
		if err == nil && !pool.AppendCertsFromPEM(pem) {
			err = fmt.Errorf("there is no certificate in %s", ca)
		}
		if err != nil {
			return nil, nil, fault.Failed(fmt.Errorf("read the CA of the namer: %w", err), "")
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	if base := cmp.Or(r.namer, os.Getenv("TULLE_NAMER"), os.Getenv("NAMERCTL_BASE_URL")); base != "" {
		u, err := url.Parse(base)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, nil, fault.Misused(fmt.Errorf("%q is not the URL of a namer", base), "write it as http://127.0.0.1:4180")
		}
		c.base, c.name = u, u.Redacted()
		return c, transport.CloseIdleConnections, nil
	}
	pods, err := r.controllers(ctx)
	if err != nil {
		return nil, nil, err
	}
	for i, t := range pods {
		c, closeWay, failure := r.through(ctx, t)
		if failure != nil {
			err = cmp.Or(err, failure)
			continue
		}
		for _, other := range slices.Delete(slices.Clone(pods), i, i+1) {
			c.others = append(c.others, peer{"pod " + other.pod.Name, func(ctx context.Context) (*client, func(), error) { return r.through(ctx, other) }})
		}
		return c, closeWay, nil
	}
	return nil, nil, err
}

// client returns a client that has no address yet.
func (r *reach) client() (*client, *http.Transport) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	return &client{token: cmp.Or(r.token, os.Getenv("TULLE_TOKEN")), http: &http.Client{Transport: transport, Timeout: answerTime}}, transport
}

// cluster returns how to reach the API server.
func (r *reach) cluster() (*rest.Config, error) {
	config, err := r.at.Config()
	if err != nil {
		return nil, fault.Failed(fmt.Errorf("%w: %w", errNoNamer, err), "say where the namer is with --namer or TULLE_NAMER, or name a cluster with --kubeconfig and --context")
	}
	return config, nil
}
