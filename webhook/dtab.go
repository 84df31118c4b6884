package webhook

import (
	"fmt"
	"net/http"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Results of a question about a DTab, as the metric has them.
const (
	dtabAllowed   = "allowed"
	dtabRefused   = "refused"
	dtabNoWorse   = "no_worse"  // wrong as before, so that labels and finalizers can change
	dtabUnrelated = "unrelated" // a question about something else
)

func dtabResults() []string { return []string{dtabAllowed, dtabRefused, dtabNoWorse, dtabUnrelated} }

// decideDTab answers whether a DTab may be stored.
func (s *Server) decideDTab(req *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	result, warnings, wrong := s.checkDTab(req)
	s.metrics.dtabs.WithLabelValues(result).Inc()
	out := &admissionv1.AdmissionResponse{UID: req.UID, Allowed: wrong == nil, Warnings: warnings}
	if wrong != nil {
		out.Result = &metav1.Status{Status: metav1.StatusFailure, Code: http.StatusUnprocessableEntity,
			Reason: metav1.StatusReasonInvalid, Message: wrong.Error()}
		s.cfg.Logger.Info("refuse a dtab", "dtab", req.Name, "user", req.UserInfo.Username, "error", wrong)
	}
	return out
}

func (s *Server) checkDTab(req *admissionv1.AdmissionRequest) (result string, warnings []string, wrong error) {
	create, update := req.Operation == admissionv1.Create, req.Operation == admissionv1.Update
	if req.Resource.Group != "l5d.io" || req.Resource.Resource != "dtabs" || req.SubResource != "" || !create && !update {
		return dtabUnrelated, []string{fmt.Sprintf(
			"tulle was asked about %s of %s, but only judges CREATE and UPDATE of dtabs.l5d.io; correct its webhook configuration", req.Operation, req.Resource.Resource)}, nil
	}
	wrong = s.cfg.DTab(req.Object.Raw)
	if wrong == nil {
		return dtabAllowed, nil, nil
	}
	if update {
		if before := s.cfg.DTab(req.OldObject.Raw); before != nil && before.Error() == wrong.Error() {
			return dtabNoWorse, []string{"still not served: " + wrong.Error()}, nil
		}
	}
	return dtabRefused, nil, wrong
}
