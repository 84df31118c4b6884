package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tulle-mesh/tulle/naming/namer"
)

const (
	// fieldManager is whom Kubernetes names as the writer.
	fieldManager = "tulle-controller"
	// maxAttempts bounds the writes that fail because the object has changed meanwhile. Those of a status
	// are soon over; that somebody changes the rules each time is an error after two.
	maxAttempts = 10
	maxRaces    = 2
	// patience is how long a write waits until the watch has told what it wrote. Without it the write has
	// succeeded all the same.
	patience = 2 * time.Second
)

// Create implements namer.Store.
func (s *Store) Create(ctx context.Context, namespace string, c namer.Change) (string, error) {
	return s.write(ctx, namespace, c, func(now *state) error {
		if now != nil {
			return namer.ErrExists
		}
		return nil
	})
}

// Put implements namer.Store. If others write at the same time it tries once more, then it is
// namer.ErrConflict.
func (s *Store) Put(ctx context.Context, namespace string, c namer.Change) (string, error) {
	return s.write(ctx, namespace, c, func(*state) error { return nil })
}

// Update implements namer.Store. Of an object that does not parse, the version is that of the rules that are served.
func (s *Store) Update(ctx context.Context, namespace string, c namer.Change, version string) (string, error) {
	return s.write(ctx, namespace, c, func(now *state) error {
		switch {
		case now == nil:
			return namer.ErrNotFound
		case now.served.Version != version:
			return namer.ErrVersion
		}
		return nil
	})
}

// Delete implements namer.Store. The history goes with the object.
func (s *Store) Delete(ctx context.Context, namespace, _ string) error {
	e, release := s.follow(namespace)
	defer release()
	before := e.seen.Get()
	if err := s.objects.Delete(ctx, namespace, metav1.DeleteOptions{}); err != nil {
		if isMissing(err) {
			return namer.ErrNotFound
		}
		return refusal("delete", namespace, err)
	}
	awaitSeen(ctx, e, func(now seen) bool { return now.uid == "" || now.uid != before.uid })
	return nil
}

// write stores the rules if allowed says so of what there is, which is nil if there is nothing.
func (s *Store) write(ctx context.Context, name string, c namer.Change, allowed func(*state) error) (string, error) {
	e, release := s.follow(name)
	defer release()
	dentries, races, last := encode(c.Dtab), 0, ""
	for range maxAttempts {
		now, u, err := s.present(ctx, name)
		if err != nil {
			return "", err
		}
		if err := allowed(now); err != nil {
			return "", err
		}
		version := ""
		if now != nil {
			version = now.object.version(now.object.Generation)
			if now.wrong == nil && now.served.Dtab.Exact() == c.Dtab.Exact() {
				return version, nil
			}
		}
		if version != last && last != "" {
			if races++; races == maxRaces {
				break
			}
		}
		last = version
		written, err := s.send(ctx, name, now, u, dentries, c.By)
		switch {
		case err == nil:
			o := decode(written)
			awaitSeen(ctx, e, func(now seen) bool {
				return now.uid == o.UID && now.generation >= o.Generation || now.uid != o.UID && now.uid != ""
			})
			return o.version(o.Generation), nil
		case !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) && !(now != nil && isMissing(err)):
			return "", refusal("write", name, err)
		}
	}
	return "", fmt.Errorf("write dtab %s: %w", name, namer.ErrConflict)
}

// present asks for the object as it is now: a watch may be behind. Both results are nil if there is none.
func (s *Store) present(ctx context.Context, name string) (*state, *unstructured.Unstructured, error) {
	u, err := s.objects.Get(ctx, name, metav1.GetOptions{})
	if isMissing(err) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, refusal("read", name, err)
	}
	o := decode(u)
	s.mu.Lock()
	defer s.mu.Unlock()
	var known []revision
	if e := s.entries[name]; e != nil {
		known = e.revisions(o.UID)
	}
	return newState(o, known), u, nil
}

// send writes the rules into an object that was read, or into a new one.
func (s *Store) send(ctx context.Context, name string, now *state, u *unstructured.Unstructured, dentries []dentry, by string) (*unstructured.Unstructured, error) {
	generation := int64(1)
	if now != nil {
		generation = now.object.Generation + 1
	} else {
		u = &unstructured.Unstructured{}
		u.SetGroupVersionKind(Resource().GroupVersion().WithKind(Kind))
		u.SetName(name)
		u.SetNamespace(s.namespace)
	}
	note, err := json.Marshal(change{Generation: generation, Time: metav1.Now(), By: by})
	if err != nil {
		return nil, fmt.Errorf("print the change: %w", err)
	}
	annotations := u.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[annotationChange] = string(note)
	u.SetAnnotations(annotations)
	list := make([]any, len(dentries))
	for i, d := range dentries {
		list[i] = map[string]any{"prefix": d.Prefix, "dst": d.Dst}
	}
	u.Object["dentries"] = list
	if now == nil {
		return s.objects.Create(ctx, u, metav1.CreateOptions{FieldManager: fieldManager})
	}
	return s.objects.Update(ctx, u, metav1.UpdateOptions{FieldManager: fieldManager})
}

// awaitSeen waits a little until the watch has told what was written.
func awaitSeen(ctx context.Context, e *entry, ok func(seen) bool) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, _ = e.seen.Wait(ctx, ok)
}

// isMissing reports whether the object does not exist, though its kind does.
func isMissing(err error) bool {
	return apierrors.IsNotFound(err) && !apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse)
}

// explain says what to do if the kind does not exist.
func explain(err error) error {
	if apierrors.IsNotFound(err) && !isMissing(err) {
		return fmt.Errorf("no dtabs.l5d.io in Kubernetes: apply the chart, which defines them: %w", err)
	}
	return err
}

// refusal is what the API server says, in the words of a Store.
func refusal(verb, name string, err error) error {
	if apierrors.IsForbidden(err) || apierrors.IsInvalid(err) || apierrors.IsRequestEntityTooLargeError(err) {
		err = fmt.Errorf("%w: %w", namer.ErrForbidden, err)
	}
	return fmt.Errorf("%s dtab %s: %w", verb, name, explain(err))
}
