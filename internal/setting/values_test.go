package setting_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/setting"
)

func TestValues(t *testing.T) {
	type inner struct {
		Image string `setting:"image"`
		Tries int    `setting:"tries"`
	}
	c := struct {
		Address string            `setting:"address"`
		Life    time.Duration     `setting:"life"`
		First   map[string]string `setting:"first"`
		Inject  inner             `setting:"inject"`
	}{":9990", time.Hour, map[string]string{"default": "/a=>/b"}, inner{"proxy:1", 3}}
	want := map[string]any{
		"address": ":9990", "life": "1h0m0s", "first": map[string]string{"default": "/a=>/b"}, "inject.image": "proxy:1", "inject.tries": "3",
	}
	for _, got := range []map[string]any{setting.Values(c), setting.Values(&c)} {
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
}
