package setting

import (
	"fmt"
	"maps"
	"reflect"
)

// Values returns what a settings struct holds, by the keys of its settings, for people to read: maps
// as they are, all else as text.
func Values(settings any) map[string]any {
	all := map[string]any{}
	values(all, "", reflect.Indirect(reflect.ValueOf(settings)))
	return all
}

func values(all map[string]any, prefix string, v reflect.Value) {
	for i := range v.NumField() {
		key := prefix + v.Type().Field(i).Tag.Get("setting")
		switch value := v.Field(i).Interface().(type) {
		case map[string]string:
			all[key] = maps.Clone(value)
		default:
			if v.Field(i).Kind() == reflect.Struct {
				values(all, key+".", v.Field(i))
				continue
			}
			all[key] = fmt.Sprint(value)
		}
	}
}
