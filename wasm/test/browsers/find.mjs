import { accessSync, constants } from 'node:fs';
import path from 'node:path';

// find returns the path of the first of the named programs that is on the PATH.
export function find(names) {
  for (const name of names) {
    for (const folder of process.env.PATH.split(path.delimiter)) {
      const file = path.join(folder, name);
      try {
        accessSync(file, constants.X_OK);
        return file;
      } catch {}
    }
  }
  return undefined;
}
