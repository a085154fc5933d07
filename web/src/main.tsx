/** Starts the page; many changes within one frame become one drawing. */

import { render } from "preact";
import { Chat } from "./chat";
import { copyFormulasAsTex } from "./markdown/copying";
import { App } from "./ui/app";
import "./styles/index.css";

const root = document.getElementById("app") as HTMLElement;
let scheduled = false;

function redraw(): void {
  if (scheduled) return;
  scheduled = true;
  const draw = () => {
    scheduled = false;
    render(<App chat={chat} />, root);
  };
  // A hidden page gets no frames, but its title and notices still matter.
  if (document.hidden) setTimeout(draw, 250);
  else requestAnimationFrame(draw);
}

const chat = new Chat(redraw, () => document.getElementById("announcer"));
redraw();
copyFormulasAsTex();
void chat.start();
