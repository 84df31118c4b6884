package inject

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
)

// Adds is what an injection adds to a pod.
type Adds struct {
	// InitContainers and Containers are the names of new ones.
	InitContainers []string `json:"initContainers,omitempty"`
	Containers     []string `json:"containers,omitempty"`
	Volumes        []string `json:"volumes,omitempty"`
	PullSecrets    []string `json:"pullSecrets,omitempty"`
	// Env are the variables that containers of the pod's own get, or have changed.
	Env []ContainerEnv `json:"env,omitempty"`
}

// ContainerEnv names variables of one container.
type ContainerEnv struct {
	Container string   `json:"container"`
	Names     []string `json:"names"`
}

// shape is what an injection may change of a pod.
type shape struct {
	Metadata struct {
		Labels      map[string]string `json:"labels"`
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec struct {
		InitContainers   []container `json:"initContainers"`
		Containers       []container `json:"containers"`
		Volumes          []named     `json:"volumes"`
		ImagePullSecrets []named     `json:"imagePullSecrets"`
	} `json:"spec"`
}

type named struct {
	Name string `json:"name"`
}

type container struct {
	Name string            `json:"name"`
	Env  []json.RawMessage `json:"env"`
}

// added says what a patch adds to a pod; nil if that is nothing.
func added(pod, patch []byte) (*Adds, error) {
	if len(patch) == 0 {
		return nil, nil
	}
	decoded, err := jsonpatch.DecodePatch(patch)
	if err != nil {
		return nil, fmt.Errorf("read the patch: %w", err)
	}
	patched, err := decoded.Apply(pod)
	if err != nil {
		return nil, fmt.Errorf("apply the patch: %w", err)
	}
	var before, after shape
	if err := json.Unmarshal(pod, &before); err != nil {
		return nil, fmt.Errorf("read the pod: %w", err)
	}
	if err := json.Unmarshal(patched, &after); err != nil {
		return nil, fmt.Errorf("read the injected pod: %w", err)
	}
	a := &Adds{}
	compare := func(was, is []container, fresh *[]string) {
		for _, c := range is {
			i := slices.IndexFunc(was, func(o container) bool { return o.Name == c.Name })
			if i < 0 {
				*fresh = append(*fresh, c.Name)
				continue
			}
			var names []string
			for _, e := range c.Env {
				if slices.ContainsFunc(was[i].Env, func(o json.RawMessage) bool { return bytes.Equal(o, e) }) {
					continue
				}
				var v named
				if json.Unmarshal(e, &v) == nil && !slices.Contains(names, v.Name) {
					names = append(names, v.Name)
				}
			}
			if len(names) > 0 {
				a.Env = append(a.Env, ContainerEnv{c.Name, names})
			}
		}
	}
	compare(before.Spec.InitContainers, after.Spec.InitContainers, &a.InitContainers)
	compare(before.Spec.Containers, after.Spec.Containers, &a.Containers)
	fresh := func(was, is []named) (names []string) {
		for _, v := range is {
			if !slices.Contains(was, v) {
				names = append(names, v.Name)
			}
		}
		return names
	}
	a.Volumes = fresh(before.Spec.Volumes, after.Spec.Volumes)
	a.PullSecrets = fresh(before.Spec.ImagePullSecrets, after.Spec.ImagePullSecrets)
	return a, nil
}

// metadataOf returns the labels and annotations of a pod or template.
func metadataOf(pod []byte) (labels, annotations map[string]string) {
	var s shape
	_ = json.Unmarshal(pod, &s) // what is none has been refused before
	return s.Metadata.Labels, s.Metadata.Annotations
}
