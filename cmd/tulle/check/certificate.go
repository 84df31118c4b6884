package check

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// late is how long after its time a renewal is overdue.
const late = time.Hour

// certificate is what counts of a Certificate of cert-manager.
type certificate struct {
	Metadata struct{ Name string }
	Status   struct {
		NotAfter, RenewalTime time.Time
		Conditions            []struct{ Type, Status, Reason, Message string }
	}
}

// certificates looks at the certificates that the chart asks cert-manager for. Their Secrets, with keys, are not read.
func (c *checker) certificates(ctx context.Context) {
	text, err := c.client.CoreV1().RESTClient().Get().AbsPath("/apis/cert-manager.io/v1/namespaces/"+c.mesh+"/certificates").Param("labelSelector", selectAll).DoRaw(ctx)
	if apierrors.IsNotFound(err) {
		return // without cert-manager, which has been found
	}
	var list struct{ Items []certificate }
	if err == nil {
		err = json.Unmarshal(text, &list)
	}
	if err != nil {
		c.skip("certificates", err)
		return
	}
	if len(list.Items) == 0 {
		c.find(Finding{Code: CertificateUnready, Message: "the certificates of Tulle are not there: the controller and the proxies cannot trust each other", Fix: c.upgrade("")})
	}
	for _, cert := range list.Items {
		c.certificate(cert, time.Now())
	}
}

func (c *checker) certificate(cert certificate, now time.Time) {
	f := Finding{Object: "certificate/" + cert.Metadata.Name, Namespace: c.mesh, Fix: kubectl(c.mesh, "describe", "certificate/"+cert.Metadata.Name) + "\n" + kubectl(c.mesh, "get", "certificaterequests")}
	ends, renewal := cert.Status.NotAfter, cert.Status.RenewalTime
	switch {
	case !ends.IsZero() && !now.Before(ends):
		f.Code, f.Message = CertificateEnds, "it ran out at "+ends.UTC().Format(time.RFC3339)
		c.find(f)
		return
	case !renewal.IsZero() && now.After(renewal.Add(late)):
		f.Code = CertificateEnds
		f.Message = fmt.Sprintf("it was to be renewed at %s, and was not; it runs out at %s", renewal.UTC().Format(time.RFC3339), ends.UTC().Format(time.RFC3339))
		c.find(f)
		return
	}
	why := "cert-manager has not looked at it yet"
	for _, condition := range cert.Status.Conditions {
		if condition.Type != "Ready" {
			continue
		}
		if condition.Status == "True" {
			c.pass("certificate/%s is good until %s", cert.Metadata.Name, ends.UTC().Format(time.RFC3339))
			return
		}
		why = condition.Reason + ": " + condition.Message
	}
	f.Code, f.Message = CertificateUnready, "it is not ready: "+why
	c.find(f)
}
