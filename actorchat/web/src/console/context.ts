import { createContext } from "preact"
import type { Console } from "./state.ts"

export const ConsoleContext = createContext<Console>(null as unknown as Console)
