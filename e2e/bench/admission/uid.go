//go:build linux

package admission

import (
	"encoding/json"
	"fmt"
)

// uidOf returns the uid of a review.
func uidOf(review []byte) ([]byte, error) {
	var r struct {
		Request struct {
			UID string `json:"uid"`
		} `json:"request"`
	}
	if err := json.Unmarshal(review, &r); err != nil {
		return nil, fmt.Errorf("read the review: %w", err)
	}
	if len(r.Request.UID) != 36 {
		return nil, fmt.Errorf("the review's uid is %q, want one of 36 characters", r.Request.UID)
	}
	return []byte(r.Request.UID), nil
}
