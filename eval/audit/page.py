"""stub"""
import json
def write_pages(found, folder):
    (folder / "audit.json").write_text(json.dumps(found.to_json(), indent=1))
    return folder / "audit.json"
