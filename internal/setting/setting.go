// Package setting loads what a program can be told: from a YAML file, from the environment and from
// flags, into one struct that is at once the list of the settings, their types and their defaults.
//
// It is not a place for runtime state, and it does not watch the file. Sources in falling order of
// strength: flag, environment, file, the value that the struct held before.
//
// A field takes part by its tags: `setting` is its key and `help` the flag's usage text. The key
// `inject.proxy-image` is the flag --inject.proxy-image, the variable TULLE_INJECT_PROXY_IMAGE and, in the file, the
// entry proxy-image under inject. Fields may be strings, bools, ints, float64s, durations ("24h"),
// structs of such, and maps from string to string. A map is read from the file only, entry by entry over
// the default ones; its keys are lower-case letters, digits and hyphens. The file is named by --config or
// TULLE_CONFIG, unless the program gives it another name.
// An empty variable counts as unset.
//
// Invariant: [Loader.Load] either fills the whole struct and has validated it, or says everything that is
// wrong at once: unknown keys and values of the wrong type with file and line, and what Validate finds.
//
//	type Config struct {
//		Admin  string        `setting:"admin" help:"address of the admin server"`
//		Life   time.Duration `setting:"certificate-duration" help:"how long a certificate is good for"`
//		Inject struct {
//			ProxyImage string `setting:"proxy-image" help:"image of the proxy"`
//		} `setting:"inject"`
//	}
//
//	func (c *Config) Validate() error { … errors.Join(…) }
//
//	cfg := Config{Admin: ":9990", Life: 24 * time.Hour}
//	cmd := &cobra.Command{Use: "tulle-controller", Args: cobra.NoArgs, SilenceUsage: true}
//	settings, err := setting.New(&cfg, cmd.Flags())
//	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
//		if err := settings.Load(); err != nil {
//			return err
//		}
//		return serve(cmd.Context(), cfg)
//	}
package setting

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// Prefix begins the name of every environment variable that is read.
const Prefix = "TULLE_"

// Validator is what a settings struct may implement to be checked as a whole. Its error should join
// everything that is wrong, naming each setting by its key.
type Validator interface{ Validate() error }

// Setting is one thing that can be set.
type Setting struct {
	// Key is the path in the file, also the flag's name.
	Key string
	// Env is the environment variable, empty for a map, which only the file can set.
	Env string
	// Default is the default as text, empty for a map.
	Default string
	// Help is one line for the reader of --help.
	Help string

	kind    reflect.Type
	flag    *pflag.Flag        // which writes into the field; nil for a map
	entries *map[string]string // the field of a map; nil for others
}

// Loader fills one settings struct. It is used by one goroutine.
type Loader struct {
	target   any
	settings []Setting
	sections map[string]bool
	flags    *pflag.FlagSet
	config   *string // the file of settings, by flag
	env      string  // the variable that names it too
}

var durationType = reflect.TypeFor[time.Duration]()

// New declares a flag in flags for every setting of the struct that target points to, and --config. The
// values that the struct holds now are the defaults. It fails only on a struct that is no list of
// settings, which is a mistake in the program.
func New(target any, flags *pflag.FlagSet) (*Loader, error) { return NewNamed(target, flags, "config") }

// NewNamed is New for a program where --config means something else: the flag that names the file of
// settings is called file, and its variable likewise.
func NewNamed(target any, flags *pflag.FlagSet, file string) (*Loader, error) {
	v := reflect.ValueOf(target)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return nil, fmt.Errorf("declare settings: %T is not a pointer to a struct", target)
	}
	l := &Loader{target: target, sections: map[string]bool{}, flags: flags, env: variable(file)}
	if err := l.declare("", v.Elem()); err != nil {
		return nil, fmt.Errorf("declare settings: %w", err)
	}
	l.config = flags.String(file, "", "YAML file of settings ("+l.env+")")
	return l, nil
}

// Settings returns every setting in the order of the struct.
func (l *Loader) Settings() []Setting { return append([]Setting(nil), l.settings...) }

// variable returns the name of the environment variable for a key.
func variable(key string) string {
	return Prefix + strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(key))
}

func (l *Loader) declare(prefix string, v reflect.Value) error {
	for i := range v.NumField() {
		field, value := v.Type().Field(i), v.Field(i)
		name := field.Tag.Get("setting")
		if name == "" || !field.IsExported() {
			return fmt.Errorf("field %s has no setting tag or is not exported", field.Name)
		}
		key := prefix + name
		if field.Type.Kind() == reflect.Struct {
			l.sections[key] = true
			if err := l.declare(key+".", value); err != nil {
				return err
			}
			continue
		}
		s := Setting{
			Key:  key,
			Env:  variable(key),
			Help: field.Tag.Get("help"),
			kind: field.Type,
		}
		usage := s.Help + " (" + s.Env + ")"
		switch p := value.Addr().Interface().(type) {
		case *string:
			l.flags.StringVar(p, key, *p, usage)
		case *bool:
			l.flags.BoolVar(p, key, *p, usage)
		case *int:
			l.flags.IntVar(p, key, *p, usage)
		case *float64:
			l.flags.Float64Var(p, key, *p, usage)
		case *time.Duration:
			l.flags.DurationVar(p, key, *p, usage)
		case *map[string]string:
			s.Env, s.entries = "", p
			l.settings = append(l.settings, s)
			continue
		default:
			return fmt.Errorf("field %s has type %s, which no setting can have", field.Name, field.Type)
		}
		s.flag = l.flags.Lookup(key)
		s.Default = s.flag.DefValue
		l.settings = append(l.settings, s)
	}
	return nil
}

// Load reads the sources and fills the struct. Call it after the flags have been parsed. The error joins
// everything that is wrong, one line each; the struct is then not to be used. A struct that implements
// [Validator] is validated too, unless a value could not be read at all.
func (l *Loader) Load() error {
	path := *l.config
	if path == "" {
		path = os.Getenv(l.env)
	}
	f := newFile(l)
	if path != "" {
		content, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read settings: %w", err)
		}
		f.read(path, content)
	}
	return l.fill(f, os.Getenv)
}

// Decode fills the struct that target points to from the text of a settings file and nothing else, as Load does:
// without flags and environment. It may hold a part of the file's settings only: keys that are not in the struct at
// the top of the file are passed over, below that they are wrong. The name is the file's, for errors.
func Decode(target any, name string, content []byte) error {
	l, err := New(target, pflag.NewFlagSet("", pflag.ContinueOnError))
	if err != nil {
		return err
	}
	f := newFile(l)
	f.partial = true
	f.read(name, content)
	return l.fill(f, func(string) string { return "" })
}

// fill fills the struct from a file that has been read and from the environment, and validates it.
func (l *Loader) fill(f *file, getenv func(string) string) error {
	unknown, unreadable := f.unknown, f.Errors()
	for _, s := range l.settings {
		if s.entries != nil {
			if own := f.entries[s.Key]; len(own) > 0 {
				all := map[string]string{}
				maps.Copy(all, *s.entries)
				maps.Copy(all, own)
				*s.entries = all
			}
			continue
		}
		text, given := f.values[s.Key]
		if env := getenv(s.Env); env != "" {
			text, given = env, true
			if err := checkText(env, s.kind); err != nil {
				unreadable = append(unreadable, fmt.Errorf("%s: %w", s.Env, err))
				continue
			}
		}
		if given && !s.flag.Changed {
			if err := s.flag.Value.Set(text); err != nil {
				return fmt.Errorf("read setting %s: %w", s.Key, err)
			}
		}
	}
	if len(unreadable) > 0 {
		return errors.Join(append(unknown, unreadable...)...)
	}
	if validator, ok := l.target.(Validator); ok {
		unknown = append(unknown, validator.Validate())
	}
	return errors.Join(unknown...)
}

// checkText says what is wrong with the text of a setting of this type.
func checkText(text string, kind reflect.Type) error {
	var err error
	var want string
	switch {
	case kind == durationType:
		_, err = time.ParseDuration(text)
		want = "a duration such as 90s or 24h"
	case kind.Kind() == reflect.Bool:
		_, err = strconv.ParseBool(text)
		want = "true or false"
	case kind.Kind() == reflect.Int:
		_, err = strconv.ParseInt(text, 0, strconv.IntSize) // as pflag does
		want = "a whole number"
	case kind.Kind() == reflect.Float64:
		_, err = strconv.ParseFloat(text, 64)
		want = "a number"
	}
	if err != nil {
		return fmt.Errorf("%q is not %s", text, want)
	}
	return nil
}
