package breakglass

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tulle-mesh/tulle/webhook/breakglass"
)

// What is open is called open, whatever fails after that.
func TestOpenIsTold(t *testing.T) {
	fail := admissionv1.Fail
	client := fake.NewClientset(&admissionv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: breakglass.Configuration},
		Webhooks:   []admissionv1.MutatingWebhook{{Name: breakglass.Entry, FailurePolicy: &fail}},
	})
	client.PrependReactor("create", "selfsubjectreviews", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, &authenticationv1.SelfSubjectReview{}, nil
	})
	looks := 0
	client.PrependReactor("get", "mutatingwebhookconfigurations", func(clienttesting.Action) (bool, runtime.Object, error) {
		if looks++; looks > 1 { // before the change
			return true, nil, errors.New("the API server is gone")
		}
		return false, nil, nil
	})
	var talk bytes.Buffer
	s := &session{mesh: "tulle", open: time.Minute, reason: "INC-7", output: "text", client: client, stderr: &talk}
	err := s.run(t.Context(), &bytes.Buffer{})
	if err == nil || !strings.Contains(err.Error(), "the API server is gone") || !strings.HasPrefix(talk.String(), "Break-glass is open") {
		t.Errorf("%v, and it says %q", err, talk.String())
	}
}
