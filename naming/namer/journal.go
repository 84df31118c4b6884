package namer

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/tulle-mesh/tulle/naming"
)

// journal is what a Files knows of one namespace beside its file: how often it was written, and
// what. It outlives the file, so that no version comes back.
type journal struct {
	Writes    uint64  `json:"writes"`
	Sum       string  `json:"sum,omitempty"` // of the bytes of the file that the newest entry was made of
	Revisions []taken `json:"revisions"`     // newest first; none if there is no such namespace
}

// taken is one state of the file.
type taken struct {
	Version uint64    `json:"version"`
	Time    time.Time `json:"time"`
	By      string    `json:"by,omitempty"`
	Dtab    string    `json:"dtab"`
}

// journalDir is where journals are, below the directory of the dtabs.
const journalDir = ".history"

func sumOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// versionBytes is a version as a Store has it: a number in eight bytes, as namerd's.
func versionBytes(n uint64) string { return string(binary.BigEndian.AppendUint64(nil, n)) }

// push makes a new revision of the file's content.
func (j *journal) push(c Change, content []byte, at time.Time) {
	j.Writes++
	j.Sum = sumOf(content)
	j.Revisions = append([]taken{{j.Writes, at, c.By, c.Dtab.Exact()}}, j.Revisions[:min(len(j.Revisions), MaxHistory-1)]...)
}

// newest returns the present dtab: one without version if there is none. It parses, as readJournal
// has found.
func (j *journal) newest() *Versioned {
	if len(j.Revisions) == 0 {
		return &Versioned{}
	}
	r, _ := j.Revisions[0].revision()
	return &r.Versioned
}

func (t taken) revision() (Revision, error) {
	dtab, err := naming.ParseDtab(t.Dtab)
	if err != nil {
		err = fmt.Errorf("dtab of version %d: %s", t.Version, naming.Brief(err))
	}
	return Revision{Versioned{dtab, versionBytes(t.Version)}, t.Time, t.By}, err
}

func journalPath(dir, namespace string) string {
	return filepath.Join(dir, journalDir, namespace+".json")
}

// readJournal returns an empty journal if there is none. Its newest dtab parses.
func readJournal(dir, namespace string) (*journal, error) {
	j, path := &journal{}, journalPath(dir, namespace)
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return j, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	if err = json.Unmarshal(content, j); err == nil && len(j.Revisions) > 0 {
		_, err = j.Revisions[0].revision()
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return j, nil
}

func (j *journal) save(dir, namespace string) error {
	content, err := json.MarshalIndent(j, "", " ")
	if err != nil {
		return fmt.Errorf("write history of %s: %w", namespace, err)
	}
	if err := os.MkdirAll(filepath.Join(dir, journalDir), 0o777); err != nil {
		return fmt.Errorf("write history of %s: %w", namespace, err)
	}
	return replace(journalPath(dir, namespace), append(content, '\n'))
}

// replace writes a file whole or not at all, even if the machine stops meanwhile.
func replace(path string, content []byte) (err error) {
	temporary, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			os.Remove(temporary.Name())
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	_, err = temporary.Write(content)
	// Others may read what they could read of a file that was made by hand.
	if err = errors.Join(err, temporary.Chmod(0o644), temporary.Sync(), temporary.Close()); err != nil {
		return err
	}
	if err = os.Rename(temporary.Name(), path); err != nil {
		return err
	}
	directory, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(directory.Sync(), directory.Close())
}

// fileOf is a dtab as it is written to its file, a rule a line.
func fileOf(d naming.Dtab) []byte {
	var b bytes.Buffer
	for _, rule := range d {
		prefix, dst, _ := bytes.Cut([]byte(naming.Dtab{rule}.Exact()), []byte("=>"))
		fmt.Fprintf(&b, "%s => %s ;\n", prefix, dst)
	}
	return b.Bytes()
}
