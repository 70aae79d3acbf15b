/** The project's folder. This file and the image's bundle are both in lib/, one level below it. */
import { fileURLToPath } from 'node:url';

export const ROOT = fileURLToPath(new URL('..', import.meta.url));
